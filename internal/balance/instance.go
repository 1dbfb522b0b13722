package balance

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
)

// Instance is a backend as the operator configured it.
type Instance struct {
	Name    string
	Address descriptor.Address
	Weight  float64               // for strategies that weigh; 0 drains the instance
	Client  *descriptor.ClientKey // nil for a descriptor that anybody may read
}

// silentAfter is how long a descriptor may go without a higher revision counter
// before its instance counts as silent. tor renews it after 60 to 120 minutes.
const silentAfter = 150 * time.Minute

// Finding is what asking the HSDirs for an instance came to.
type Finding int

// What a fetch can find.
const (
	NotAsked    Finding = iota
	Found               // a valid descriptor
	Unknown             // HSDirs answered, and none has one
	Unreachable         // not enough HSDirs answered
	Invalid             // HSDirs returned only invalid descriptors
)

// Query asks for the descriptor of an instance for the current period.
type Query struct {
	Consensus *hsdir.Consensus
	Keys      descriptor.PeriodKeys
	Client    *descriptor.ClientKey // nil unless the instance wants one
	Floor     uint64                // the lowest revision counter that is no replay
	Now       time.Time             // to judge certificates by
}

// Answer is what a Query came to.
type Answer struct {
	Keys       descriptor.PeriodKeys
	Finding    Finding
	Descriptor *descriptor.Descriptor // verified, if Found
	Raw        []byte                 // Descriptor as it came
	Err        error                  // why it was not found
}

// Fetcher asks the HSDirs. It is safe for concurrent use, bounds what it has
// under way, and returns when ctx ends.
type Fetcher interface {
	Fetch(ctx context.Context, q Query) Answer
}

// instance is what a service knows of one backend. The service's goroutine
// owns it; rounds get copies.
type instance struct {
	Instance
	finding Finding
	err     error // of the last fetch, nil when it found a descriptor

	held    *descriptor.Descriptor // the last good one, nil if there never was one
	raw     []byte                 // held, as it came
	period  descriptor.Period      // of held
	renewed time.Time              // when held's revision was first seen

	offer    offer                 // what held contributes
	changes  *rate.Limiter         // of the offer
	restless bool                  // it changed too often
	seen     map[pointID]time.Time // when the points on offer were first seen, for this period

	asking   bool      // a fetch is under way
	asked    time.Time // when the last fetch began
	answered time.Time // when the last one ended
	due      time.Time // when the next should
	failures int       // fetches without a descriptor, in a row
	found    time.Time // when the last fetch ended that found one
	watched  bool      // held's revision was not there yet shortly before renewed
}

// state sums the instance up. Only an instance that is ok is worth sending
// clients to while there is a choice.
func (i *instance) state(now time.Time) status.State {
	switch {
	case i.finding == Unknown:
		return status.StateUnknown
	case i.held == nil && i.finding == NotAsked:
		return status.StateStarting
	case i.held == nil && i.finding == Invalid:
		return status.StateInvalid
	case i.held == nil:
		return status.StateUnreachable
	case now.Sub(i.renewed) > silentAfter:
		return status.StateSilent
	default:
		return status.StateOK
	}
}

// floor is the lowest revision counter that a descriptor of p may carry.
func (i *instance) floor(p descriptor.Period) uint64 {
	if i.held == nil || i.period != p {
		return 0
	}
	return i.held.RevisionCounter
}

// accept takes the answer to a query for the current period, and reports whether
// it brought another descriptor than the one held.
func (i *instance) accept(a Answer, now time.Time) (renewed bool) {
	i.asking = false
	i.finding, i.err = a.Finding, a.Err
	if a.Finding != Found {
		i.failures++
		return false
	}
	i.failures = 0
	renewed = i.held == nil || i.period != a.Keys.Period || i.held.RevisionCounter != a.Descriptor.RevisionCounter
	if renewed {
		i.watched = i.period == a.Keys.Period && now.Sub(i.found) <= watchedFor
		i.renewed = now
	}
	anew := i.period != a.Keys.Period // so are all of its points
	i.held, i.raw, i.period, i.found = a.Descriptor, a.Raw, a.Keys.Period, now
	if i.adopt(now, anew); anew {
		i.seen = nil
	}
	return renewed
}

// usable returns how many of the introduction points on offer may be used.
func (i *instance) usable(now time.Time) (n int) {
	for _, p := range i.offer.points {
		if now.Before(p.Expires) {
			n++
		}
	}
	return n
}

// problem is the text for the status: what went wrong last, if anything did.
func (i *instance) problem() string {
	if i.err == nil {
		return ""
	}
	return i.err.Error()
}
