package balance

import (
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// pool is what there is to choose from, and what of the instances' offers is not
// in it.
type pool struct {
	candidates []selection.Candidate
	// fallback says that no instance is ok, and the candidates are what was last
	// known of them: whoever is asked must say loudly that the service lives on its
	// last good descriptors.
	fallback bool
	flow     uint64              // versions of congestion control that most instances have
	left     map[string][]string // by instance: why some of its points are left out
	thefts   map[string]string   // by instance: which other one's keys it offers
}

// voucher returns an introduction point as it may be published, or why it may
// not, as its relay is not known to be what it is named.
type voucher func(descriptor.IntroductionPoint) (descriptor.IntroductionPoint, error)

// gather lists the introduction points that may be published at now: those of
// the instances that are ok. While none is, the points last known of the others
// are better than nothing. vouch says whether the consensus knows a point's
// relay, c whose its keys are.
func gather(now time.Time, instances []*instance, vouch voucher, c *claims) pool {
	p := pool{left: make(map[string][]string), thefts: make(map[string]string)}
	var able []*instance
	for _, i := range instances {
		if i.state(now) == status.StateOK {
			able = append(able, i)
		}
	}
	if p.take(now, able, instances, vouch, c); len(p.candidates) == 0 {
		p.fallback = true
		p.take(now, instances, instances, vouch, c)
	}
	return p
}

// take gathers the points of some of the instances.
func (p *pool) take(now time.Time, able, all []*instance, vouch voucher, c *claims) {
	clear(p.left)
	clear(p.thefts)
	points := make([][]selection.Candidate, len(able))
	var offering []*instance
	for n, i := range able {
		if points[n] = p.usable(now, i, all, vouch, c); len(points[n]) > 0 {
			offering = append(offering, i)
		}
	}
	p.flow = agreedFlow(offering)
	for n, i := range able {
		// Its visitors would count cells in another way than it does.
		if len(points[n]) > 0 && versionsOf(i.offer.flow)&p.flow != p.flow {
			p.left[i.Name] = append(p.left[i.Name], "it is left out, since it offers no congestion control and most of the others do: update its tor")
			continue
		}
		p.candidates = append(p.candidates, points[n]...)
	}
}

// usable lists the points of one instance that may be published.
func (p *pool) usable(now time.Time, i *instance, all []*instance, vouch voucher, c *claims) []selection.Candidate {
	var list []selection.Candidate
	for n := range i.offer.points {
		point := &i.offer.points[n]
		if !now.Before(point.Expires) {
			continue
		}
		vouched, err := vouch(*point)
		if err != nil {
			p.leave(i, err.Error())
			continue
		}
		if victim, stolen := c.thief(i.Address, point); stolen {
			p.thefts[i.Name] = nameOf(victim, all)
			p.leave(i, "it has a key that "+p.thefts[i.Name]+" had first")
			continue
		}
		list = append(list, selection.Candidate{
			Instance:  i.Name,
			Weight:    i.Weight,
			Point:     &vouched,
			FirstSeen: i.seen[idOf(point)],
			Published: i.renewed,
		})
	}
	return list
}

// leave records why a point of an instance is left out.
func (p *pool) leave(i *instance, why string) {
	p.left[i.Name] = append(p.left[i.Name], "an introduction point is left out: "+why)
}

// nameOf returns the name of an instance, or a shortened address.
func nameOf(a descriptor.Address, instances []*instance) string {
	for _, i := range instances {
		if i.Address == a {
			return i.Name
		}
	}
	return a.Short()
}

// firstExpiry returns when the next of the points stops being usable, the zero
// time if there are none.
func firstExpiry(points []selection.Candidate) time.Time {
	var first time.Time
	for _, c := range points {
		if first.IsZero() || c.Point.Expires.Before(first) {
			first = c.Point.Expires
		}
	}
	return first
}
