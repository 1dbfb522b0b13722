package backend

import (
	"context"
	"time"

	"onionbalancer/internal/times"
)

// lateBy is by how much a turn must be late for everything to be fetched again:
// the machine slept, or the clock was set.
const lateBy = 30 * time.Second

// wait returns when there is something to do, at next at the latest, and whether that is
// because of another consensus. Timers stand still while the machine sleeps, so it looks
// at the clock in between.
func (s *Set) wait(ctx context.Context, changed <-chan struct{}, next time.Time) (another bool) {
	for again := false; ; again = true {
		now := s.cfg.Now()
		look := times.Earlier(next, now.Add(lateBy))
		s.mu.Lock()
		done := again && (s.late(now) || !now.Before(next))
		if !done {
			s.planned = look
		}
		s.mu.Unlock()
		if done {
			return false
		}
		timer := time.NewTimer(look.Sub(now))
		select {
		case <-ctx.Done():
		case <-changed:
			another = true
		case <-s.poke:
		case <-timer.C:
			continue
		}
		timer.Stop()
		return another
	}
}

// late reports whether the machine slept, or the clock was set ahead: then the wall
// clock is further than timers say. The caller holds s.mu.
func (s *Set) late(now time.Time) bool {
	return !s.planned.IsZero() && now.Round(0).Sub(s.planned.Round(0)) > lateBy
}

// jumped has subscribers judge by the wall clock how fresh their view is, and what they
// published. What is known of an instance does not become worse: nobody has looked.
func (s *Set) jumped() {
	s.jumps++
	for _, w := range s.watches {
		w.update(func(b *Backend) { b.Heard = b.Heard.Round(0) })
	}
	for sub := range s.subscriptions {
		sub.wake()
	}
}
