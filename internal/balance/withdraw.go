package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// A withdrawn service publishes descriptors without introduction points in the place of
// those that HSDirs may have, so that clients who ask find nobody. Of periods for which
// nothing was published it publishes nothing, and nothing is renewed: by the time that
// HSDirs drop an empty descriptor, they have long dropped what it replaced.

// withdraw plans what a withdrawn service publishes.
func (p *Plan) withdraw(v View, s State) {
	p.Chosen, p.Shares = nil, nil
	p.Targets = make([]Target, len(v.Targets))
	nobody := &holding{Contents: contents(nil, v, 0)}
	for role := range v.Targets {
		t := &p.Targets[role]
		t.ViewTarget, t.Role = v.Targets[role], hsdir.Role(role)
		last := s.Editions[t.Keys.Period]
		for _, slot := range t.Slots {
			t.places = append(t.places, place{Slot: slot, holding: nobody})
		}
		if of := s.last(t.Keys.Period); of.own {
			for _, at := range v.left(t.Slots, of.places) {
				t.places = append(t.places, place{at.Slot, nobody, at.leftAt})
			}
		}
		if t.Credential == nil || len(t.Slots) == 0 {
			continue
		}
		switch {
		case last == nil && s.remains(v.Now, t.Keys.Period), last != nil && last.points() > 0:
			t.Reason = ReasonWithdrawn
		case last != nil && (last.outdone || last.rejected(v.Now)):
			t.Reason = ReasonRejected
		case last != nil:
			p.sooner(last.retryAt, v.Now)
			continue
		default:
			continue
		}
		t.Urgency = hsdir.UrgencyNew
		p.separate(t, v, last)
	}
}

// remains reports whether HSDirs may still have a descriptor with introduction points that
// an earlier process published for a period.
func (s State) remains(now time.Time, p descriptor.Period) bool {
	b := s.Before[p]
	if b == nil {
		return now.Before(s.unread)
	}
	some := slices.ContainsFunc(b.places, func(at place) bool { return !at.Left && !at.holding.empty() })
	return (some || b.made.Pending) && now.Before(b.made.Refresh.Add(keptFor))
}

// replaces records until when HSDirs may have an edition with introduction points, which
// e is in the place of. last is nil if that is one of an earlier process.
func (e *Edition) replaces(now time.Time, last *Edition) {
	switch {
	case last == nil:
		e.older = now
	case last.points() == 0:
		e.older = last.older
	case slices.ContainsFunc(last.slots, func(s slot) bool { return s.confirmed.IsZero() }): // one may be in flight
		e.older = now
	default:
		e.older = last.heard
	}
}

// cleared reports whether no HSDir has an edition with introduction points any more,
// because of e or because it dropped what it had.
func (e *Edition) cleared(now time.Time) bool {
	return e.points() == 0 &&
		(!now.Before(e.older.Add(keptFor)) || !slices.ContainsFunc(e.slots, func(s slot) bool { return s.confirmed.IsZero() }))
}

// Withdrawn reports whether the service is configured as Withdrawn and nothing of it is
// left: every HSDir that may have had a descriptor with introduction points confirmed one
// without, or dropped it by now. The service may end then.
func (s *Service) Withdrawn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Now()
	if !s.cfg.Withdrawn || s.instances == nil || now.Before(s.state.unread) {
		return false
	}
	for _, e := range s.state.Editions {
		if !e.cleared(now) {
			return false
		}
	}
	for p := range s.state.Before {
		if s.state.Editions[p] == nil && s.state.remains(now, p) {
			return false
		}
	}
	return true
}
