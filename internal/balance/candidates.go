package balance

import (
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// pool has the candidates to choose from, and the points of the instances that were
// left out.
type pool struct {
	candidates []selection.Candidate
	// fallback says that no instance is ok, and the candidates are the last known
	// points: stale, which the caller must report loudly.
	fallback bool
	flow     uint64              // versions of congestion control that most instances have
	left     map[string][]string // by instance: why some of its points are left out
	thefts   map[string]string   // by instance: which other one's keys it offers
	out      map[string]string   // by instance: why it was taken out on purpose
}

// offering is an instance with its current state.
type offering struct {
	Instance
	*backend.Backend
}

// gather lists the introduction points that may be published: those of the
// instances that are ok. While none is, the last known points of the others are
// better than nothing, but not those of instances that were taken out on purpose.
func gather(v View) pool {
	p := pool{left: make(map[string][]string), thefts: make(map[string]string), out: make(map[string]string)}
	var all, able []offering
	for n, b := range v.Instances.Backends {
		o := offering{v.Config.Instances[n], b}
		if why := b.TakenOut(); why != "" {
			p.out[o.Name] = why
			continue
		}
		all = append(all, o)
		if b.State(v.Now) == status.StateOK {
			able = append(able, o)
		}
	}
	able, unreached := v.reached(able)
	if p.take(v, able); len(p.candidates) == 0 {
		p.fallback = true
		p.take(v, all)
		return p
	}
	for _, o := range unreached {
		p.left[o.Name] = append(p.left[o.Name], "it is left out: "+unreachedText(v.Unreached[o.Instance.Address]))
	}
	return p
}

// reached takes out those of the able that visitors of the public address do not
// reach, but no more than half.
func (v View) reached(able []offering) (rest, unreached []offering) {
	for _, o := range able {
		if v.Unreached[o.Instance.Address] != "" && len(unreached) < len(able)/2 {
			unreached = append(unreached, o)
		} else {
			rest = append(rest, o)
		}
	}
	return rest, unreached
}

// take gathers the points of some of the instances.
func (p *pool) take(v View, able []offering) {
	clear(p.left)
	clear(p.thefts)
	points := make([][]selection.Candidate, len(able))
	var flows []*descriptor.FlowControl
	for n, o := range able {
		if points[n] = p.usable(v, o); len(points[n]) > 0 {
			flows = append(flows, o.Offer.Flow)
		}
	}
	p.flow = agreedFlow(flows)
	for n, o := range able {
		// Its visitors would count cells differently than it does.
		if len(points[n]) > 0 && versionsOf(o.Offer.Flow)&p.flow != p.flow {
			p.left[o.Name] = append(p.left[o.Name], "it is left out, since it offers no congestion control and most of the others do: update its tor")
			continue
		}
		p.candidates = append(p.candidates, points[n]...)
	}
}

// usable lists the points of one instance that may be published.
func (p *pool) usable(v View, o offering) []selection.Candidate {
	var list []selection.Candidate
	for n := range o.Offer.Points {
		point := &o.Offer.Points[n]
		if !v.Now.Before(point.Expires) {
			continue
		}
		vouched, err := v.Vouch(&point.IntroductionPoint)
		if err != nil {
			p.leave(o, err.Error())
			continue
		}
		if victim := v.victim(point); victim != "" {
			p.thefts[o.Name] = victim
			p.leave(o, "it has a key that "+victim+" had first")
			continue
		}
		list = append(list, selection.Candidate{
			Instance:  o.Name,
			Weight:    o.Weigh(o.Weight),
			Point:     vouched,
			FirstSeen: point.FirstSeen,
			Published: o.Renewed,
		})
	}
	return list
}

// victim returns the name of the service's instance that had one of p's keys
// first; empty if there is none.
func (v View) victim(p *backend.Point) string {
	for _, rival := range p.Rivals {
		if n := slices.IndexFunc(v.Config.Instances, func(i Instance) bool { return i.Address == rival }); n >= 0 {
			return v.Config.Instances[n].Name
		}
	}
	return ""
}

// leave records why a point of an instance is left out.
func (p *pool) leave(o offering, why string) {
	p.left[o.Name] = append(p.left[o.Name], "an introduction point is left out: "+why)
}
