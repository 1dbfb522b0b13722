package token

import (
	"context"
	"sync"
	"time"

	"onionbalancer/keystore/token/pin"
)

// helpers are those in use.
var helpers = struct {
	mu sync.Mutex
	m  map[identity]*helper
}{m: map[identity]*helper{}}

type identity struct {
	at     place
	source pin.Source
}

// share returns the helper for a token, and counts one user more.
func share(at place, source pin.Source) *helper {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	h := helpers.m[identity{at, source}]
	if h == nil {
		h = &helper{at: at, source: source, turn: make(chan struct{}, 1)}
		h.closing, h.abandon = context.WithCancel(context.Background())
		helpers.m[identity{at, source}] = h
	}
	h.users++
	return h
}

// release counts one user less, and ends the process after the last.
func (h *helper) release() {
	helpers.mu.Lock()
	h.users--
	last := h.users == 0
	if last {
		delete(helpers.m, identity{h.at, h.source})
	}
	helpers.mu.Unlock()
	if !last {
		return
	}
	timer := time.AfterFunc(limits.grace, h.abandon)
	h.turn <- struct{}{} // all who have it or wait for it give up then
	timer.Stop()
	h.abandon()
	h.closed = true
	h.stop(limits.grace)
	<-h.turn
}
