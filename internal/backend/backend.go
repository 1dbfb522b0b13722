// Package backend watches the instances of all services, each once, however many
// services use it: one fetch loop, one decoded descriptor, one judgement of its
// freshness. Services subscribe to the instances that they use, read immutable
// Backends, and are woken when one of theirs changed.
package backend

import (
	"errors"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/times"
)

// SilentAfter is how long a descriptor may go without a higher revision counter
// before its instance counts as silent. tor renews it after 60 to 120 minutes.
const SilentAfter = 150 * time.Minute

// Finding is the result of the last fetch of an instance's descriptor.
type Finding int

// The findings.
const (
	NotAsked    Finding = iota
	Found               // a valid descriptor
	NotFound            // HSDirs of both replicas answered, and do not have it
	Unreachable         // not enough HSDirs answered to tell
	Invalid             // HSDirs returned only invalid descriptors
)

// findingOf maps the error of a fetch to a finding.
func findingOf(err error) Finding {
	switch {
	case err == nil:
		return Found
	case errors.Is(err, hsdir.ErrNotFound):
		return NotFound
	case errors.Is(err, hsdir.ErrInvalid), errors.Is(err, descriptor.ErrClientKey):
		return Invalid
	default:
		return Unreachable
	}
}

// Backend is the state of one instance at one moment. It is immutable.
type Backend struct {
	Address descriptor.Address
	// Version grows with every change of the instance that services care about.
	Version uint64

	Finding  Finding
	Err      error // of the last fetch; nil when it found a descriptor
	Failures int   // fetches without a descriptor, in a row

	Descriptor *descriptor.Descriptor // the last good one; nil before there was one
	Period     descriptor.Period      // of Descriptor
	Began      time.Time              // when the first of Period was seen; zero if that is not known
	Renewed    time.Time              // when the instance published it, as far as known
	Exact      bool                   // Renewed is more than an upper bound
	Seen       time.Time              // when a fetch last found Descriptor, or one after it
	Offer      Offer                  // of Descriptor
	Restless   bool                   // it changes its offer too often, and is fetched less often

	Word state.Word  // the operator's
	Load health.Load // as told at run time; not stored
	// Urgent counts the changes that should not wait for fetches.
	Urgent uint64

	Asking   bool      // a fetch is in flight
	Asked    time.Time // when the last fetch began
	Answered time.Time // when the last fetch ended
	Heard    time.Time // when a fetch last showed whether there is a descriptor
	Due      time.Time // when the next fetch should begin

	Interval time.Duration // between fetches while it answers
}

// missesToDrop is how many fetches in a row must say that there is no descriptor
// before an instance that had one is dropped: the HSDirs of a new ring may not have
// it yet.
const missesToDrop = 2

// State derives the state from b. Only an instance that is ok is worth sending clients
// to while there is a choice.
//
// Silence is judged by the results of fetches, not by the time since the last one: an
// instance is silent if a fetch found a descriptor that was old by then. So rare
// fetches make no instance silent.
func (b *Backend) State(now time.Time) status.State {
	switch {
	case b.Finding == NotFound && (b.Descriptor == nil || b.Failures >= missesToDrop):
		return status.StateUnknown
	case b.Descriptor == nil && b.Finding == NotAsked:
		return status.StateStarting
	case b.Descriptor == nil && b.Finding == Invalid:
		return status.StateInvalid
	case b.Descriptor == nil:
		return status.StateUnreachable
	case b.Seen.Sub(b.Renewed) > SilentAfter:
		return status.StateSilent
	case now.Sub(b.Seen) > SilentAfter:
		return status.StateUnreachable
	default:
		return status.StateOK
	}
}

// Usable returns how many introduction points on offer have not expired.
func (b *Backend) Usable(now time.Time) (n int) {
	for _, p := range b.Offer.Points {
		if now.Before(p.Expires) {
			n++
		}
	}
	return n
}

// floor is the lowest revision counter that a descriptor of p may carry.
func (b *Backend) floor(p descriptor.Period) uint64 {
	if b.Descriptor == nil || b.Period != p {
		return 0
	}
	return b.Descriptor.RevisionCounter
}

// A View is what a subscriber sees of its instances at one moment, in the order
// in which it named them.
type View struct {
	Backends []*Backend
	Health   []health.State // what checks found, in the same order; nil if there are none
	// Urgent grows with every change that should not wait for fetches in flight.
	Urgent uint64
	// Jumps counts how often the wall clock has got ahead of the monotonic one: the
	// machine was suspended, or the clock was set.
	Jumps int
	// StoreErr is why the state of the instances could not be stored.
	StoreErr error
}

// Checked returns what checks found about the nth instance.
func (v View) Checked(n int) health.State {
	if v.Health == nil {
		return unchecked
	}
	return v.Health[n]
}

// How long planning waits for fetches in flight: waitLongest for the first of
// them, waitRest after the first answer. Publishing two instances and then
// three costs more than a second's wait.
const (
	waitLongest = 5 * time.Second
	waitRest    = time.Second
)

// Wait returns until when to wait for fetches in flight, or about to begin;
// the zero time if none is worth it.
func (v View) Wait(now time.Time) time.Time {
	var began, until time.Time
	for _, b := range v.Backends {
		if at, pending := b.pending(now); pending && (began.IsZero() || at.Before(began)) {
			began = at
		}
	}
	if began.IsZero() {
		return began
	}
	until = began.Add(waitLongest)
	for _, b := range v.Backends {
		if _, pending := b.pending(now); !pending && b.Finding == Found && !b.Answered.Before(began) {
			until = times.Earlier(until, b.Answered.Add(waitRest))
		}
	}
	return until
}

// pending returns since when a fetch has been in flight or due.
func (b *Backend) pending(now time.Time) (since time.Time, pending bool) {
	if b.Asking {
		return b.Asked, true
	}
	return b.Due, !now.Before(b.Due)
}

// NextFetch returns when the next fetch of an instance is due that is not in
// flight; the zero time if there is none.
func (v View) NextFetch() (next time.Time) {
	for _, b := range v.Backends {
		if !b.Asking && (next.IsZero() || b.Due.Before(next)) {
			next = b.Due
		}
	}
	return next
}

// Heard returns when a fetch of an instance last showed whether there is a
// descriptor; the zero time if none ever did.
func (v View) Heard() (last time.Time) {
	for _, b := range v.Backends {
		last = times.Later(last, b.Heard)
	}
	return last
}

// Interval returns the longest interval between fetches of an instance.
func (v View) Interval() (longest time.Duration) {
	for _, b := range v.Backends {
		longest = max(longest, b.Interval)
	}
	return longest
}
