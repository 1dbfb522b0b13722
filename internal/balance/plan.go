package balance

import (
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// Reason says why a descriptor is made. Reasons are for people to read.
type Reason string

// The reasons, the first that applies being given.
const (
	ReasonNew      Reason = "new period"
	ReasonChanged  Reason = "introduction points changed"
	ReasonRejected Reason = "HSDirs held a higher revision counter"
	ReasonExpiring Reason = "certificate about to expire"
	ReasonKey      Reason = "descriptor-signing key changed"
	ReasonLost     Reason = "HSDirs lost it"
	ReasonRefresh  Reason = "refresh due"
	ReasonHSDirs   Reason = "HSDirs changed"
)

// wanted is what should be at the HSDirs for one period.
type wanted struct {
	ring      *hsdir.Ring
	keys      descriptor.PeriodKeys
	authority *authority // who signs it; nil while nobody can
	contents  *descriptor.Contents
	slots     []hsdir.Slot // where it goes, those that clients ask first
}

// edition is what was last made for one period.
type edition struct {
	wanted
	reason   Reason
	revision uint64
	built    time.Time
	refresh  time.Time             // when to make it anew though nothing changed
	filled   map[[20]byte]*filling // by HSDir
	unmade   error                 // why the last upload could not be signed
	lost     bool                  // clients do not get it, though HSDirs confirmed it
	heard    time.Time             // when an HSDir last confirmed this edition, or one before it of the period
}

// filling is what is known of one slot of an edition.
type filling struct {
	revision   uint64    // of what was sent there last
	confirmed  time.Time // zero until the HSDir confirmed it
	attempts   int       // since this edition was made
	err        error     // of the last attempt
	rejections int       // in a row
	retryAt    time.Time // when to try a higher revision counter; zero while a try is under way
}

// step is one thing to do.
type step struct {
	wanted
	reason Reason
	// fresh asks for a new descriptor in all slots; otherwise the present one
	// goes to the slots that lack it.
	fresh  bool
	missed []hsdir.Slot
}

// certificateMargin is how long before the end of its certificate a descriptor
// gets another; longer than its lifetime of three hours at the HSDirs.
const certificateMargin = 4 * time.Hour

// plan compares what should be at the HSDirs with what was last made, and
// returns what is to be done at now: nothing, if nothing changed.
func plan(now time.Time, targets []wanted, made map[descriptor.Period]*edition) []step {
	var steps []step
	for _, w := range targets {
		if len(w.contents.IntroductionPoints) == 0 {
			continue // an empty descriptor is never published: the last good one stays
		}
		if w.authority == nil {
			continue // what was published stays
		}
		last := made[w.keys.Period]
		if reason := reasonToMake(now, w, last); reason != "" {
			steps = append(steps, step{wanted: w, reason: reason, fresh: true, missed: w.slots})
		} else if missed, reason := last.missed(now, w.slots); reason != "" {
			steps = append(steps, step{wanted: w, reason: reason, missed: missed})
		}
	}
	return steps
}

// reasonToMake returns why w needs a new descriptor, or nothing.
func reasonToMake(now time.Time, w wanted, last *edition) Reason {
	switch {
	case last == nil:
		return ReasonNew
	case !sameContents(last.contents, w.contents):
		return ReasonChanged
	case last.authority != w.authority && now.Add(certificateMargin).Before(last.authority.expires):
		return ReasonKey
	case last.authority != w.authority:
		return ReasonExpiring
	case last.lost:
		return ReasonLost
	case !now.Before(last.refresh):
		return ReasonRefresh
	}
	return ""
}

// missed lists those of the slots that e should be sent to now, and why.
func (e *edition) missed(now time.Time, slots []hsdir.Slot) (list []hsdir.Slot, reason Reason) {
	if len(slots) != len(e.slots) {
		reason = ReasonHSDirs
	}
	for _, s := range slots {
		switch f := e.filled[s.HSDir]; {
		case f == nil:
			list, reason = append(list, s), ReasonHSDirs
		case !f.retryAt.IsZero() && !now.Before(f.retryAt):
			list = append(list, s)
			if reason == "" {
				reason = ReasonRejected
			}
		}
	}
	return list, reason
}

// allRejected reports whether every HSDir that answered refused e's revision
// counter: then it is too low. A single one that does may be lying.
func (e *edition) allRejected() bool {
	rejected := 0
	for _, f := range e.filled {
		if !f.confirmed.IsZero() {
			return false
		}
		if f.rejections > 0 {
			rejected++
		}
	}
	return rejected > 0
}
