package balance

import (
	"time"

	"onionbalancer/internal/status"
)

// wake returns when the next round is due though nothing happens.
func (s *Service) wake(now time.Time) time.Time {
	next := now.Add(time.Hour)
	if s.epoch == (epoch{}) {
		return now.Add(consensusWait) // there is nothing to do, but to say why there is none
	}
	for _, i := range s.instances {
		if !i.asking {
			next = earlier(next, i.due)
		}
		if i.state(now) == status.StateOK {
			next = earlier(next, i.renewed.Add(silentAfter+time.Second))
		}
	}
	if s.anyAsking() && now.Before(s.settleAt) {
		next = earlier(next, s.settleAt)
	}
	if !s.retryAt.IsZero() {
		next = earlier(next, s.retryAt)
	}
	if !s.listened.IsZero() {
		next = earlier(next, s.listened.Add(dawnLasts))
	}
	if s.readback.asking == nil && !s.readback.due.IsZero() {
		next = earlier(next, s.readback.due)
	}
	next = s.custody.wake(now, next)
	for _, e := range s.editions {
		if e.refresh.After(now) {
			next = earlier(next, e.refresh)
		}
		if e.authority.expires.After(now) {
			next = earlier(next, e.authority.expires)
		}
		for _, f := range e.filled {
			if f.retryAt.After(now) {
				next = earlier(next, f.retryAt)
			}
		}
	}
	if expiry := firstExpiry(s.chosen); expiry.After(now) {
		next = earlier(next, expiry)
	}
	if next.Before(now.Add(shortestWait)) {
		return now.Add(shortestWait)
	}
	return next
}

// consensusWait is how often the status is renewed while there is no consensus.
const consensusWait = 5 * time.Second

// shortestWait keeps a mistake about what is due from becoming a busy loop.
const shortestWait = 100 * time.Millisecond
