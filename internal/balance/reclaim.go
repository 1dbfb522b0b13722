package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/status"
)

// Of two machines that stand in for each other one never gives way: it publishes above what
// it finds that the other has published, which then ends. So the two do not go on for hours.

// reclaimEvery is how often such a service looks at an HSDir.
const reclaimEvery = 2 * time.Minute

// reclaim has e, of which an HSDir returned another publisher's descriptor, made again above
// that one's counter, unless that is further ahead of the clock than any that is followed.
// What the other has published is better than what is made of instances as they were before
// this machine was cut off.
func (s *Service) reclaim(now time.Time, c *hsdir.Consensus, e *Edition, read reading) {
	if !s.cfg.Reclaim || read.holds != status.HoldsOther || read.revision <= s.counters[e.Keys.Period] {
		return
	}
	if !abreast(s.instances.View(), now) {
		return
	}
	ring, err := c.Ring(e.Role)
	if err != nil || ring.Period != e.Keys.Period {
		return
	}
	most, err := e.Credential.Counter(ring.RunStart, now.Add(leadMax))
	if err != nil || read.revision > most {
		return
	}
	s.counters[e.Keys.Period], e.outdone = read.revision, true
	s.replan = true
}

// abreast reports whether every instance that visitors may be sent to was heard of lately.
func abreast(v backend.View, now time.Time) bool {
	return !slices.ContainsFunc(v.Backends, func(b *backend.Backend) bool {
		return b.State(now) == status.StateOK && now.Sub(b.Heard) > max(freshFor*b.Interval, freshAtBest)
	})
}

// catchUpFor is how long what waits to be published waits at most for instances to be seen,
// once this machine is on the network again.
const catchUpFor = 10 * time.Minute

// behind says what the active machine knows of how things went while it was cut off, or off.
type behind struct {
	since  time.Time // since when no instance has been seen for too long; zero: one has
	online time.Time // when a consensus of after that was there; zero: none is
	unseen time.Time // the last moment of such a time
	stale  time.Time // the same, or one without a consensus that is valid still
}

// caughtUp reports whether an edition is of how instances are now, and not of before this
// machine was cut off.
func (s *Service) caughtUp(e *Edition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Now()
	return s.instances != nil && s.catchUp(s.instances.View(), now) && (e.wants.IsZero() || now.Sub(s.behind.unseen) > catchUpFor)
}

// catchUp is caughtUp for who has the view, whatever the edition. HSDirs that an old consensus
// names may have what instances published long ago, so it needs a new one first. It does not
// wait for instances that cannot be seen though the network is there.
func (s *Service) catchUp(v backend.View, now time.Time) bool {
	c, _ := s.env.Consensus.Consensus()
	b := &s.behind
	if unseen(v, now) {
		if b.since.IsZero() {
			b.since = now
		}
		if b.online.IsZero() && c != nil && c.ValidAfter.After(b.since) {
			b.online = now
		}
		b.unseen, b.stale = now, now
		return !b.online.IsZero() && now.Sub(b.online) > catchUpFor
	}
	b.since, b.online = time.Time{}, time.Time{}
	switch {
	case now.Sub(b.unseen) > catchUpFor:
		return true
	case c == nil || now.After(c.ValidUntil): // and not Live: this clock may be behind
		b.stale = now
		return false
	}
	return !slices.ContainsFunc(v.Backends, func(i *backend.Backend) bool { // no fetch has ended that began since
		return !i.Heard.After(b.stale) && (i.Asking || !i.Asked.After(b.stale))
	})
}

// View returns the instances as this machine sees them, if they are watched.
func (s *Service) View() backend.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instances == nil {
		return backend.View{}
	}
	return s.instances.View()
}

// Made reports whether this process made a descriptor of a period, signed by a key.
func (s *Service) Made(p descriptor.Period, counter uint64, signer [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.Ours(signer) && counter <= s.counters[p]
}
