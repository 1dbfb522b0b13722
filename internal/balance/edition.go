package balance

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
	"onionbalancer/internal/times"
)

// Edition is the last version made for one period: one revision counter with the
// contents of every slot. A client that fetches again asks a random HSDir,
// and silently drops a lower counter than it holds; so no slot ever gets
// a counter that the others do not get.
type Edition struct {
	Keys       descriptor.PeriodKeys
	Role       hsdir.Role
	Credential *credential.Credential // that signs it
	Reason     Reason
	Urgency    hsdir.Urgency
	Revision   uint64
	Built      time.Time
	Refresh    time.Time // when to make the next even without a change
	Turn       uint64    // of the strategy's

	signer     state.Bytes32 // the descriptor-signing key: another manager's, of one that it published
	slots      []slot
	due        time.Time   // when the next Turn begins
	removed    time.Time   // when an edition last left out dead points, and
	added      time.Time   // when one last changed others
	wants      time.Time   // of a hosted service: since when it would be made otherwise
	reserved   bool        // its counter is in the store
	counted    bool        // in Counts.Held
	uploaded   bool        // it was handed to the upload queue
	superseded atomic.Bool // by a later edition
	outdone    bool        // another publisher's record in the store has a higher counter
	signing    signing

	lost       bool      // clients do not get it, although HSDirs confirmed it
	older      time.Time // of one without points: when an HSDir may last have confirmed one with some
	heard      time.Time // when an HSDir last confirmed this edition, or an earlier one of the period
	rejections int       // editions in a row, this one included, that an HSDir rejected
	retryAt    time.Time // when to follow a rejected one by the next; zero while none was rejected
}

// slot is one place of an edition, with the state of its upload.
type slot struct {
	place
	confirmed time.Time // zero until the HSDir confirmed
	before    *holding  // what it has until then; nil if that is nothing, or not known
	err       error     // of the last attempt
	attempts  int32
	rejected  bool
}

// newEdition returns the edition that a target asks for.
func newEdition(now time.Time, t *Target, last *Edition, revision uint64) *Edition {
	e := &Edition{
		Keys: t.Keys, Role: t.Role, Credential: t.Credential, Reason: t.Reason, Urgency: t.Urgency,
		Revision: revision, Built: now, Turn: t.Turn, signer: state.Bytes32(t.Credential.Public),
	}
	e.Refresh = now.Add(t.refreshes(revision))
	e.due = e.Refresh
	if !t.Refresh {
		// Many changes do not keep the next turn from coming.
		e.due = times.Earlier(e.due, t.due)
	}
	e.slots = make([]slot, len(t.places))
	for n, p := range t.places {
		e.slots[n].place, e.slots[n].before = p, last.had(p.HSDir)
	}
	if last != nil {
		e.heard, e.removed, e.added = last.heard, last.removed, last.added
		if !last.retryAt.IsZero() {
			e.rejections = last.rejections
		}
	}
	if e.points() == 0 {
		e.replaces(now, last)
	}
	switch t.change {
	case changeRemoved, changeScarce, changeDead:
		e.removed = now
	case changeAdded:
		e.added = now
	}
	return e
}

// share takes over what a plan holds that asks for no new edition: the contents, which are
// the same, so that a second copy is not needed, and which HSDirs clients ask now. One
// that had left may be back, and where there are few relays others take no places.
func (e *Edition) share(t *Target) {
	for _, p := range t.places {
		at := e.slot(p.HSDir)
		if at == nil {
			continue
		}
		at.Reserve, at.Left, at.leftAt = p.Reserve, p.Left, p.leftAt // upload's Body reads HSDir meanwhile
		if p.holding != nil && sameContents(at.holding.Contents, p.holding.Contents) {
			at.holding = p.holding
		}
	}
}

// had returns what an HSDir has of the period: of e, or of an edition before it. It is nil if
// that is nothing, or not known.
func (e *Edition) had(h [20]byte) *holding {
	if e == nil {
		return nil
	}
	at := e.slot(h)
	switch {
	case at == nil:
		return nil
	case at.confirmed.IsZero():
		return at.before
	}
	return at.holding
}

// places lists the slots without the state of their uploads.
func (e *Edition) places() []place {
	list := make([]place, len(e.slots))
	for n := range e.slots {
		list[n] = e.slots[n].place
	}
	return list
}

// points counts the introduction points in the slots that clients ask, each once.
func (e *Edition) points() int {
	known := make(map[[32]byte]bool)
	var before *holding
	for _, at := range e.slots {
		if at.Reserve || at.holding == before {
			continue
		}
		before = at.holding
		for n := range at.holding.IntroductionPoints {
			known[at.holding.IntroductionPoints[n].AuthKey] = true
		}
	}
	return len(known)
}

// owns reports whether a slot of e holds a point of the instance.
func (e *Edition) owns(a descriptor.Address) bool {
	return slices.ContainsFunc(e.slots, func(s slot) bool { return s.holding.owns(a) })
}

// pointsOf returns how many points of the instance a slot of e holds at most; e may be nil.
func (e *Edition) pointsOf(a descriptor.Address) (most int) {
	if e == nil {
		return 0
	}
	for _, at := range e.slots {
		own := 0
		for _, owner := range at.holding.owners {
			if owner == a {
				own++
			}
		}
		most = max(most, own)
	}
	return most
}

// expires returns when clients begin to refuse e.
func (e *Edition) expires() time.Time { return e.Credential.ExpiresAt(e.Built) }

// slot returns the slot of an HSDir, nil if there is none.
func (e *Edition) slot(h [20]byte) *slot {
	if n := e.index(h); n >= 0 {
		return &e.slots[n]
	}
	return nil
}

func (e *Edition) index(h [20]byte) int {
	for n := range e.slots {
		if e.slots[n].HSDir == h {
			return n
		}
	}
	return -1
}

// rejected reports whether it is time to follow a rejected edition by the next.
func (e *Edition) rejected(now time.Time) bool { return !e.retryAt.IsZero() && !now.Before(e.retryAt) }

// mostRejected reports whether more HSDirs refused e's revision counter than confirmed it:
// then it is too low. A single one that refuses may be lying, and a single one that confirms
// may have lost what the others hold.
func (e *Edition) mostRejected() bool {
	more := 0
	for _, s := range e.slots {
		switch {
		case s.rejected:
			more++
		case !s.confirmed.IsZero():
			more--
		}
	}
	return more > 0
}

// everywhere reports whether every HSDir that clients ask confirmed e.
func (e *Edition) everywhere() bool {
	return !slices.ContainsFunc(e.slots, func(s slot) bool { return !s.Reserve && s.confirmed.IsZero() })
}

// complete reports whether every HSDir of the ring confirmed e.
func (e *Edition) complete() bool {
	return !slices.ContainsFunc(e.slots, func(s slot) bool { return !s.Left && s.confirmed.IsZero() })
}

// inOrder lists the editions, that of the earlier period first.
func (s State) inOrder() []*Edition {
	return slices.SortedFunc(maps.Values(s.Editions), func(a, b *Edition) int { return cmp.Compare(a.Keys.Period.Number, b.Keys.Period.Number) })
}

// Between these times tor renews an unchanged descriptor, and so
// do we.
const (
	refreshMin = 60 * time.Minute
	refreshMax = 120 * time.Minute
)

// The delay after a rejection before the next edition, fourfold with each further
// one.
const (
	rejectionWait    = time.Second
	rejectionWaitMax = 30 * time.Minute
)
