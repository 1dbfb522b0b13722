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
	for n := range d.IntroductionPoints {
		if p := &d.IntroductionPoints[n]; !p.Legacy { // only the oldest clients could use it
			o.points = append(o.points, p.Publishable())
		}
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

// How often an instance may change what it offers: so many times at once, and
// then once in so long. Each change costs uploads to all HSDirs, for which the
// others' operator answers too. tor changes a point in 18 to 24 hours, and a few
// in an hour when relays fail.
const (
	changesAtOnce = 8
	changesEvery  = 15 * time.Minute
)

func newChanges() *rate.Limiter { return rate.NewLimiter(rate.Every(changesEvery), changesAtOnce) }

// adopt takes over what held offers, unless the instance changes that too often:
// then the offer of before goes on, and adopt is asked again with the next fetch.
// What is new with a new period is free, as everything is published anew then.
func (i *instance) adopt(now time.Time, free bool) {
	next := offerOf(i.held)
	if !free && !i.offer.same(next) && !i.changes.AllowN(now, 1) {
		i.restless = true
		return
	}
	i.offer, i.restless = next, false
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
