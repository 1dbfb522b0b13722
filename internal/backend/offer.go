package backend

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
)

// Point is an introduction point of an instance, as it may be published.
type Point struct {
	descriptor.IntroductionPoint
	// FirstSeen is when the point was first seen in this period.
	FirstSeen time.Time
	// Rivals are the other instances that had one of the point's keys first. A
	// service that uses one of them does not publish the point.
	Rivals []descriptor.Address
}

// ID identifies an introduction point by everything that clients use.
type ID struct {
	Auth, Enc [32]byte
	Relay     descriptor.Fingerprint
}

// IDOf returns the ID of p.
func IDOf(p *descriptor.IntroductionPoint) ID { return ID{p.AuthKey, p.EncKey, p.Relay()} }

// Offer is what an instance's descriptor contributes to the master descriptor.
type Offer struct {
	Points      []Point
	Flow        *descriptor.FlowControl // nil if the instance has no congestion control
	SingleOnion bool
}

// OfferOf extracts from a descriptor the points that may be published.
func OfferOf(d *descriptor.Descriptor) Offer {
	o := Offer{Flow: d.FlowControl, SingleOnion: d.SingleOnion}
	known := make(map[ID]bool)
	for n := range d.IntroductionPoints {
		p := &d.IntroductionPoints[n]
		if p.Legacy || known[IDOf(p)] { // only the oldest clients could use it, or it is a duplicate
			continue
		}
		known[IDOf(p)] = true
		o.Points = append(o.Points, Point{IntroductionPoint: p.Publishable()})
	}
	return o
}

// same reports whether b offers the same as a, in any order. Later expiries
// alone do not count.
func (a Offer) same(b Offer) bool {
	return SameFlow(a.Flow, b.Flow) && a.SingleOnion == b.SingleOnion && len(a.Points) == len(b.Points) &&
		!slices.ContainsFunc(a.Points, func(p Point) bool {
			return !slices.ContainsFunc(b.Points, func(q Point) bool { return SamePoint(&p.IntroductionPoint, &q.IntroductionPoint) })
		})
}

// SameFlow reports whether a and b have the same congestion control.
func SameFlow(a, b *descriptor.FlowControl) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// SamePoint reports whether a and b are one introduction point. Instances renew
// the certificates about hourly, so a later expiry does not make another point.
func SamePoint(a, b *descriptor.IntroductionPoint) bool {
	p := *a
	p.Expires = b.Expires
	return p.Equal(b)
}

// How often an instance may change its offer before it is fetched less often: this
// many times at once, and then once in this time. Each change costs uploads to all
// HSDirs. tor changes a point after 18 to 24 hours, when its relay fails, or after
// some ten thousand introductions, which under load is minutes: so changes are
// rate-limited, not refused: dead points must not stay published.
const (
	changesAtOnce = 8
	// ChangesEvery is how often a restless instance is fetched.
	ChangesEvery = 5 * time.Minute
)

func newChanges() *rate.Limiter { return rate.NewLimiter(rate.Every(ChangesEvery), changesAtOnce) }

// FirstSeen tells when each point of o was first seen.
func (o Offer) FirstSeen() map[ID]time.Time {
	seen := make(map[ID]time.Time, len(o.Points))
	for n := range o.Points {
		seen[IDOf(&o.Points[n].IntroductionPoint)] = o.Points[n].FirstSeen
	}
	return seen
}

// Date fills in when the points of o were first seen: as in seen, or else at.
func (o Offer) Date(seen map[ID]time.Time, at time.Time) {
	for n := range o.Points {
		p := &o.Points[n]
		if first, known := seen[IDOf(&p.IntroductionPoint)]; known {
			p.FirstSeen = first
		} else {
			p.FirstSeen = at
		}
	}
}
