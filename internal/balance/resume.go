package balance

import (
	"slices"
	"time"

	"onionbalancer/hsdir"
)

// A service that another manager published before, or another process, may go on from what
// the record says that HSDirs have: moving a service is not publishing it again. If it would
// have made the same, that becomes its own edition.

// ReasonResumed is that of an edition which another manager or an earlier process published,
// and ReasonPending that of the first in the place of one that not all HSDirs confirmed.
const (
	ReasonResumed Reason = "published by another manager or process before"
	ReasonPending Reason = "not all HSDirs had it"
)

// aheadMost is by how much the clock of whoever published before may be ahead of ours: what
// seems to be made later than that has an unknown age.
const aheadMost = time.Minute

// lives reports whether HSDirs have b still. It may be nil.
func (b *past) lives(now time.Time) bool {
	return b != nil && now.Before(b.made.Built.Add(keptFor)) && !now.Before(b.made.Built.Add(-aheadMost)) && !b.places[0].holding.empty()
}

// resume plans the first edition of a period in this process, if HSDirs have one.
func (p *Plan) resume(t *Target, v View, s State, pool *pool) {
	b := s.Before[t.Keys.Period]
	if !b.lives(v.Now) {
		return // it is made at once
	}
	t.stored, t.Reason = true, ""
	p.sooner(b.made.Refresh, v.Now)
	t.moved = b.knowsHSDirs() && slices.ContainsFunc(t.places, func(at place) bool {
		return !slices.ContainsFunc(b.places, func(had place) bool { return had.HSDir == at.HSDir })
	})
	switch same := digest(t.places, v.own) == b.made.Contents; {
	case !same:
		t.Reason, t.change = ReasonChanged, max(changeAdded, b.loss(t, pool))
	case t.moved:
		t.Reason = ReasonHSDirs
	case b.made.Pending:
		t.Reason = ReasonPending
	case !v.Now.Before(b.made.Refresh):
		t.Reason = ReasonRefresh
	default:
		return
	}
	t.Urgency = t.urgency()
	p.holdStale(t, v, b.made.Built)
}

// holdStale holds t if the view is too old for an edition to follow the one that was built
// at the given time.
func (p *Plan) holdStale(t *Target, v View, built time.Time) {
	if at := v.staleUntil(t.Reason, built); v.Now.Before(at) {
		t.Held, t.Gathers = "no instance has answered for too long to make a new descriptor", false
		p.sooner(at, v.Now)
	}
}

// knowsHSDirs reports whether the record says which HSDirs have b.
func (b *past) knowsHSDirs() bool { return b.places[0].HSDir != ([20]byte{}) }

// turnDue returns when the turn after b's begins.
func (b *past) turnDue() time.Time {
	if b.made.Due.IsZero() {
		return b.made.Refresh
	}
	return b.made.Due
}

// adopt makes what HSDirs have of a target an edition of this process.
func (s *Service) adopt(t *Target) {
	b := s.state.Before[t.Keys.Period]
	e := &Edition{
		Keys: t.Keys, Role: t.Role, Credential: t.Credential, Reason: ReasonResumed, Urgency: hsdir.UrgencyRefresh,
		Revision: b.made.Revision, Built: b.made.Built, Refresh: b.made.Refresh, Turn: b.made.Turn,
		signer: b.made.Signer, due: b.turnDue(), heard: b.made.Built, reserved: true, uploaded: true,
	}
	e.signing.complete = true
	e.slots = make([]slot, len(t.places))
	for n, p := range t.places {
		e.slots[n] = slot{place: p, confirmed: b.made.Built}
	}
	s.state.Editions[t.Keys.Period] = e
}
