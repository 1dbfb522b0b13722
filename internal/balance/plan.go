package balance

import (
	"fmt"
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
	ReasonRefresh  Reason = "refresh due"
	ReasonHSDirs   Reason = "HSDirs changed"
)

// Place is a slot without its service and descriptor: which HSDir, for which
// replica.
type Place struct {
	Replica int // counted from 1
	HSDir   [20]byte
}

// wanted is what should be at the HSDirs for one period.
type wanted struct {
	ring     *hsdir.Ring
	keys     descriptor.Keys
	contents *descriptor.Contents
	places   []Place // those that clients ask first come first
}

// edition is what was last made for one period.
type edition struct {
	wanted
	reason   Reason
	revision uint64
	built    time.Time
	refresh  time.Time // when to make it anew though nothing changed
	expires  time.Time // of the certificate of the descriptor-signing key
	slots    map[Place]*slot
}

// slot is what is known of one place of an edition.
type slot struct {
	revision   uint64    // what was sent there last
	confirmed  time.Time // zero until the HSDir confirmed this revision
	attempts   int       // since this edition was made
	err        error     // of the last attempt
	rejections int       // in a row
	retryAt    time.Time // after a rejection: when to try a higher revision counter
}

// step is one thing to do.
type step struct {
	wanted
	reason Reason
	// fresh asks for a new descriptor in all places; otherwise the present one
	// goes to the places that lack it.
	fresh  bool
	missed []Place
}

// certificateMargin is how long before the end of its certificate a descriptor
// is made anew; longer than its lifetime of three hours at the HSDirs.
const certificateMargin = 4 * time.Hour

// plan compares what should be at the HSDirs with what was last made, and
// returns what is to be done at now: nothing, if nothing changed.
func plan(now time.Time, targets []wanted, made map[descriptor.Period]*edition) []step {
	var steps []step
	for _, w := range targets {
		if len(w.contents.IntroductionPoints) == 0 {
			continue // an empty descriptor is never published: the last good one stays
		}
		last := made[w.keys.Period]
		if reason := reasonToMake(now, w, last); reason != "" {
			steps = append(steps, step{wanted: w, reason: reason, fresh: true, missed: w.places})
		} else if missed, reason := last.missed(now, w.places); reason != "" {
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
	case now.Add(certificateMargin).After(last.expires):
		return ReasonExpiring
	case !now.Before(last.refresh):
		return ReasonRefresh
	}
	return ""
}

// missed lists those of the places that e should be sent to now, and why.
func (e *edition) missed(now time.Time, places []Place) (list []Place, reason Reason) {
	if len(places) != len(e.places) {
		reason = ReasonHSDirs
	}
	for _, p := range places {
		switch sl := e.slots[p]; {
		case sl == nil:
			list, reason = append(list, p), ReasonHSDirs
		case sl.rejections > 0 && !now.Before(sl.retryAt):
			list = append(list, p)
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
	for _, sl := range e.slots {
		if !sl.confirmed.IsZero() {
			return false
		}
		if sl.rejections > 0 {
			rejected++
		}
	}
	return rejected > 0
}

// String names the HSDir by the beginning of its fingerprint.
func (p Place) String() string { return fmt.Sprintf("%X", p.HSDir[:4]) }
