package sim

import (
	"math/rand/v2"
	"time"
)

// view is the consensus that one tor has, which is older than the newest one
// most of the time. Network.mu protects it.
type view struct {
	net       *Network
	random    *rand.Rand
	delay     time.Duration // fixed; 0 is tor's random one
	arrived   func(now time.Time)
	consensus *Consensus
	stopped   bool // gets no new one
	round     int  // outdates what was planned before
}

// follow gives v the consensus that a tor which has run for long would have
// by now, and lets it fetch new ones.
func (v *view) follow(now time.Time) {
	v.round++
	votes := v.net.votes
	v.consensus = votes[len(votes)-1]
	if v.delay == 0 && len(votes) > 1 && v.random.IntN(2) == 0 {
		v.consensus = votes[len(votes)-2]
	}
	v.plan(now)
}

// reset takes the consensus away; fetch ends that.
func (v *view) reset() {
	v.round++
	v.consensus = nil
}

// plan schedules the next fetch: by the fixed delay after the next consensus
// is made, or when tor as a client would: some time in the seven eighths of
// what is left of the validity, three quarters of an interval after the
// consensus went stale.
func (v *view) plan(now time.Time) {
	interval := v.net.cfg.VotingInterval
	var at time.Time
	switch c := v.consensus; {
	case c == nil:
		at = now
	case v.delay > 0:
		at = c.FreshUntil.Add(v.delay)
	default:
		start := c.FreshUntil.Add(interval * 3 / 4)
		at = start.Add(between(v.random, 0, c.ValidUntil.Sub(start)*7/8))
	}
	if !at.After(now) {
		at = now.Add(retryDelay(interval, v))
	}
	round := v.round
	v.net.agenda.plan(at, func(now time.Time) {
		if round == v.round {
			v.fetch(now)
		}
	})
}

// retryDelay is the pause before the next attempt when no newer consensus was
// to be had.
func retryDelay(interval time.Duration, v *view) time.Duration {
	return between(v.random, interval/64, interval/16) + time.Second
}

// fetch takes the newest consensus that the caches have, if it is news.
func (v *view) fetch(now time.Time) {
	fresh := v.newest(now)
	if news := !v.stopped && fresh != nil && fresh != v.consensus; news {
		v.consensus = fresh
		v.plan(now)
		if v.arrived != nil {
			v.arrived(now)
		}
		return
	}
	v.plan(now)
}

// newest is the newest consensus that directory caches hand out: they have it
// two minutes after it is made, or sooner where intervals are short.
func (v *view) newest(now time.Time) *Consensus {
	spread := min(2*time.Minute, v.net.cfg.VotingInterval/16)
	if v.delay > 0 {
		spread = min(spread, v.delay)
	}
	for i := len(v.net.votes) - 1; i >= 0; i-- {
		if c := v.net.votes[i]; !c.ValidAfter.Add(spread).After(now) {
			return c
		}
	}
	return nil
}

// live is v's consensus if tor would still work with it, else nil.
func (v *view) live(now time.Time) *Consensus {
	if v.consensus.live(now) {
		return v.consensus
	}
	return nil
}
