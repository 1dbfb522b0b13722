package balance

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
)

// offer is what an instance's descriptor contributes to the master descriptor.
type offer struct {
	points []descriptor.IntroductionPoint // as they may be published
	flow   *descriptor.FlowControl        // nil if the instance does no congestion control
	single bool
}

// offerOf takes from a descriptor what may be published of it.
func offerOf(d *descriptor.Descriptor) offer {
	o := offer{flow: d.FlowControl, single: d.SingleOnion}
	known := make(map[pointID]bool)
	for n := range d.IntroductionPoints {
		p := &d.IntroductionPoints[n]
		if p.Legacy || known[idOf(p)] { // only the oldest clients could use it, or it is there twice
			continue
		}
		known[idOf(p)] = true
		o.points = append(o.points, p.Publishable())
	}
	return o
}

// same reports whether b offers what a does, in whatever order. Later expiries
// alone do not count.
func (a offer) same(b offer) bool {
	return sameFlow(a.flow, b.flow) && a.single == b.single && len(a.points) == len(b.points) &&
		!slices.ContainsFunc(a.points, func(p descriptor.IntroductionPoint) bool {
			return !slices.ContainsFunc(b.points, func(q descriptor.IntroductionPoint) bool { return samePoint(p, q) })
		})
}

// How often an instance may change what it offers before it is asked for less
// often: so many times at once, and then once in so long. Each change costs
// uploads to all HSDirs. tor changes a point after 18 to 24 hours, when its relay
// fails, or after some ten thousand introductions, which under load is minutes:
// so changes are spaced, not refused, lest dead points stay published.
const (
	changesAtOnce = 8
	changesEvery  = 5 * time.Minute
)

func newChanges() *rate.Limiter { return rate.NewLimiter(rate.Every(changesEvery), changesAtOnce) }

// adopt takes over what held offers. What is new with a new period is nobody's
// restlessness.
func (i *instance) adopt(now time.Time, anew bool) {
	next := offerOf(i.held)
	switch {
	case !anew && !i.offer.same(next) && !i.changes.AllowN(now, 1):
		i.restless = true
	case i.changes.TokensAt(now) >= 2: // it rested for twice as long as it has to
		i.restless = false
	}
	i.offer = next
}

// pointID tells introduction points apart by all that clients go by.
type pointID struct {
	auth, enc [32]byte
	relay     string
}

func idOf(p *descriptor.IntroductionPoint) pointID {
	return pointID{p.AuthKey, p.EncKey, p.Relay()}
}

// see notes when each of the points on offer was first seen, and forgets those
// that are gone.
func (i *instance) see(at time.Time) {
	seen := make(map[pointID]time.Time, len(i.offer.points))
	for n := range i.offer.points {
		id := idOf(&i.offer.points[n])
		if first, known := i.seen[id]; known {
			seen[id] = first
		} else {
			seen[id] = at
		}
	}
	i.seen = seen
}
