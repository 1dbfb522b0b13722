package control

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// pair names what an event of tor's answers: a service and an HSDir.
type pair struct {
	address string // 56 characters, lower case
	hsdir   string // 40 hex digits, upper case
}

func newPair(address, hsdir string) (pair, error) {
	if len(address) != 56 || strings.Trim(address, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return pair{}, &usageError{fmt.Errorf("%.10q is not 56 characters of base32 in lower case", address)}
	}
	if !isHex(hsdir) {
		return pair{}, &usageError{fmt.Errorf("HSDir %.50q is not 40 hex digits", hsdir)}
	}
	return pair{address: address, hsdir: strings.ToUpper(hsdir)}, nil
}

// wait is one fetch or post that an event will answer.
type wait struct {
	post   bool
	result chan result // holds one
}

type result struct {
	content []byte
	err     error
}

func (s *session) expect(p pair, post bool) *wait {
	w := &wait{post: post, result: make(chan result, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[p] = w
	return w
}

func (s *session) forget(p pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waits, p)
}

// deliver gives an event to whoever waits for it, and ignores the rest: tor
// reports its own fetches and uploads as well.
func (s *session) deliver(e *hsDescEvent) {
	s.mu.Lock()
	w := s.waits[e.pair]
	s.mu.Unlock()
	if w == nil {
		return
	}
	var r result
	switch {
	case e.action == "CONTENT" && !w.post && e.content != nil:
		r.content = e.content
	case e.action == "UPLOADED" && w.post:
	case e.action == "FAILED" && w.post == ofPost(e.reason, w.post):
		r.err = &HSDescError{Post: w.post, Address: e.pair.address, HSDir: e.pair.hsdir, reason: e.reason}
	default:
		return
	}
	select {
	case w.result <- r:
	default: // answered already
	}
}

// ofPost tells whether a failure is that of a post. Some reasons serve both:
// then it is what we asked for.
func ofPost(reason string, asked bool) bool {
	switch reason {
	case "UPLOAD_REJECTED":
		return true
	case "NOT_FOUND", "BAD_DESC", "QUERY_REJECTED", "QUERY_NO_HSDIR", "QUERY_RATE_LIMITED":
		return false
	}
	return asked
}

// pairLocks is a lock for each pair in use.
type pairLocks struct {
	mu    sync.Mutex
	locks map[pair]*pairLock
}

type pairLock struct {
	held  chan struct{} // holds one while the lock is held
	users int           // holders and waiters; guarded by pairLocks.mu
}

// lock waits for the pair's lock, or for the end of ctx.
func (p *pairLocks) lock(ctx context.Context, key pair) (unlock func(), err error) {
	p.mu.Lock()
	if p.locks == nil {
		p.locks = make(map[pair]*pairLock)
	}
	l := p.locks[key]
	if l == nil {
		l = &pairLock{held: make(chan struct{}, 1)}
		p.locks[key] = l
	}
	l.users++
	p.mu.Unlock()
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; p.leave(key, l) }, nil
	case <-ctx.Done():
		p.leave(key, l)
		return nil, ctx.Err()
	}
}

func (p *pairLocks) leave(key pair, l *pairLock) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(p.locks, key)
	}
}
