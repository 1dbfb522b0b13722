package control

import (
	"context"
	"fmt"
	"strings"
)

// pair identifies the request that an event of tor's answers: a service and an HSDir.
type pair struct {
	address string // 56 characters, lower case
	hsdir   string // 40 hex digits, upper case
}

func newPair(address, hsdir string) (pair, error) {
	if len(address) != 56 || strings.Trim(address, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return pair{}, fmt.Errorf("%.10q is not 56 characters of base32 in lower case", address)
	}
	if !isHex(hsdir) {
		return pair{}, fmt.Errorf("HSDir %.50q is not 40 hex digits", hsdir)
	}
	return pair{address: address, hsdir: strings.ToUpper(hsdir)}, nil
}

// pendingRequest is one fetch or post that an event will answer.
type pendingRequest struct {
	post   bool
	result chan result   // holds one
	over   chan struct{} // closed when it is pending no more
}

type result struct {
	content []byte
	err     error
}

// register makes a request the pending one of its pair, when there is no other.
func (s *session) register(ctx context.Context, p pair, post bool) (*pendingRequest, error) {
	w := &pendingRequest{post: post, result: make(chan result, 1), over: make(chan struct{})}
	for {
		s.mu.Lock()
		other := s.pending[p]
		if other == nil {
			s.pending[p] = w
		}
		s.mu.Unlock()
		if other == nil {
			return w, nil
		}
		select {
		case <-other.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.done:
			return nil, s.lost()
		}
	}
}

func (s *session) unregister(p pair, w *pendingRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, p)
	close(w.over)
}

// deliver passes an event to the pending request, and ignores the rest: tor
// reports its own fetches and uploads as well.
func (s *session) deliver(e *hsDescEvent) {
	s.mu.Lock()
	w := s.pending[e.pair]
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

// ofPost reports whether a failure is that of a post. Some reasons apply to both:
// then the pending request decides.
func ofPost(reason string, asked bool) bool {
	switch reason {
	case "UPLOAD_REJECTED":
		return true
	case "NOT_FOUND", "BAD_DESC", "QUERY_REJECTED", "QUERY_NO_HSDIR", "QUERY_RATE_LIMITED":
		return false
	}
	return asked
}
