package balance

import (
	"sync"
	"time"
)

// inbox has results from other goroutines, for the loop to handle.
type inbox struct {
	mu     sync.Mutex
	list   []func(now time.Time)
	closed bool
}

func (b *inbox) take() []func(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list = nil
	return list
}

func (b *inbox) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.list) == 0
}

func (b *inbox) close() []func(now time.Time) {
	list := b.take()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return append(list, b.list...)
}

// post has the loop call f and plan. It reports whether the loop still runs.
func (s *Service) post(f func(now time.Time)) bool {
	return s.postQuietly(func(now time.Time) {
		s.replan = true
		f(now)
	})
}

// postQuietly has the loop call f, which reports whether a new plan is needed. What is
// posted before Run takes effect at once, as there may never be a loop: mu is not held.
func (s *Service) postQuietly(f func(now time.Time)) bool {
	if !s.begun.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f(s.env.Now())
		s.look() // the loop may have begun meanwhile
		return true
	}
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	if s.inbox.closed {
		return false
	}
	s.inbox.list = append(s.inbox.list, f)
	s.look()
	return true
}

// Wake has the service plan: what Env says has changed.
func (s *Service) Wake() { s.wakePlan() }

// wakePlan makes the loop plan, which does so anyway at first. It may be called with any lock
// held but that of the inbox.
func (s *Service) wakePlan() {
	if s.begun.Load() {
		s.post(func(time.Time) {})
	}
}
