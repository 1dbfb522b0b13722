package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/health"
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
	hidden   []selection.Candidate // of a hosted service: those that its instances show no more and have still
	flow     uint64                // versions of congestion control that most instances have
	left     map[string][]string   // by instance: why some of its points are left out
	thefts   map[string]string     // by instance: which other one's keys it offers
	down     map[string]string     // by instance: what checks have against it, so that it is left out
	panic    bool                  // instances stay in use against what checks say
	out      map[string]string     // by instance: why it was taken out on purpose
	lifted   bool                  // points.avoid leaves no point, and so is not applied
}

// offering is an instance with its current state. It is large: pass pointers.
type offering struct {
	*Instance
	*backend.Backend
	Health health.State
	Weight float64 // in force
	Told   health.Load
}

// offering returns the nth instance.
func (v View) offering(n int) *offering {
	i := &v.Config.Instances[n]
	return &offering{i, v.Instances.Backends[n], v.Instances.Checked(n), v.Instances.Weigh(n, i.Weight), v.Instances.Load(n, v.Now)}
}

// gather lists the introduction points that may be published: those of the
// instances that are ok. While none is, the last known points of the others are
// better than nothing, but not those of instances that were taken out on purpose.
func gather(v View) pool {
	p := pool{left: make(map[string][]string), thefts: make(map[string]string), out: make(map[string]string), down: make(map[string]string)}
	var all, able []*offering
	for n := range v.Instances.Backends {
		o := v.offering(n)
		if why := v.Instances.TakenOut(n); why != "" {
			p.out[o.Name] = why
			continue
		}
		all = append(all, o)
		if o.State(v.Now) == status.StateOK {
			able = append(able, o)
		}
	}
	able, failed := p.checked(v, able)
	if p.take(v, able); len(p.candidates) == 0 {
		p.fallback = true
		p.take(v, all)
		return p
	}
	for _, o := range failed {
		p.down[o.Name] = o.failure(v)
	}
	return p
}

// checked takes out those of the able that fail their checks, or that visitors of the
// public address do not reach, but no more than half.
func (p *pool) checked(v View, able []*offering) (rest, failed []*offering) {
	list := make([]health.Standing, len(able))
	for n, o := range able {
		list[n] = health.Standing{Out: o.Health.Out(), Passing: !o.Health.Held.IsZero() && v.Now.Sub(o.Health.Failing) >= restedAfter, Doubt: o.Health.Doubt, Since: o.Health.OutSince}
		if v.Unreached[o.Instance.Address] != "" {
			list[n].Out, list[n].Passing = true, false
		}
	}
	var out []bool
	out, p.panic = health.TakeOut(list)
	for n, o := range able {
		if out[n] {
			failed = append(failed, o)
		} else {
			rest = append(rest, o)
		}
	}
	return rest, failed
}

// restedAfter is for how long a held instance must have passed its checks to give its
// place among those that are out to one that fails: two that fail in turns would
// change places each time.
const restedAfter = 10 * time.Minute

// failure says why checks want an instance out.
func (o *offering) failure(v View) string {
	switch why := v.Unreached[o.Instance.Address]; {
	case o.Health.Operating == health.Down:
		return "checks find it down"
	case why != "":
		return unreachedText(why)
	case !o.Health.Held.IsZero():
		return "it passes its checks, and was down too often to be used at once; \"balancer ready\" ends that"
	}
	return "it was down, and has not passed enough checks since"
}

// take gathers the points of some of the instances.
func (p *pool) take(v View, able []*offering) {
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
	p.obey(v)
}

// expiryMargin is how long before its certificates expire a point leaves. HSDirs keep
// what is published now for as long, and hand it to clients until then.
const expiryMargin = keptFor

// usable lists the points of one instance that may be published. Those about to
// expire may as long as it has no others.
func (p *pool) usable(v View, o *offering) []selection.Candidate {
	var list []selection.Candidate
	at := v.Now.Add(expiryMargin)
	if !slices.ContainsFunc(o.Offer.Points, func(p backend.Point) bool { return at.Before(p.Expires) }) {
		at = v.Now
	}
	for n := range o.Offer.Points {
		point := &o.Offer.Points[n]
		if !at.Before(point.Expires) {
			if v.Now.Before(point.Expires) {
				p.leave(o.Name, "its certificates are about to expire")
			}
			continue
		}
		vouched, err := v.Vouch(&point.IntroductionPoint)
		if err != nil {
			p.leave(o.Name, err.Error())
			continue
		}
		if victim := v.victim(point); victim != "" {
			p.thefts[o.Name] = victim
			p.leave(o.Name, "it has a key that "+victim+" had first")
			continue
		}
		list = append(list, selection.Candidate{
			Instance:  o.Name,
			Weight:    o.Weight,
			Load:      o.Told.At(v.Now),
			Point:     vouched,
			FirstSeen: v.made(point),
			Published: o.Renewed,
		})
	}
	return p.living(o, list)
}

// made is when a point was made, as far as can be told. An instance makes the points of
// a period's descriptor when it first publishes that, half a period before clients, and
// we, come to it: to take them for newborn would keep them published until they die.
func (v View) made(p *backend.Point) time.Time {
	period := v.Targets[v.Current].Keys.Period
	// A tor may get the first consensus of a period nearly two hours late.
	if since := p.FirstSeen.Sub(period.Start(v.offset)); since >= 0 && since < period.Length/12 {
		return period.FirstUse(v.offset)
	}
	return p.FirstSeen
}

// living leaves out the points that checks found dead, unless no other is left.
func (p *pool) living(o *offering, list []selection.Candidate) []selection.Candidate {
	if len(o.Health.Dead) == 0 {
		return list
	}
	dead := func(c selection.Candidate) bool { return slices.Contains(o.Health.Dead, c.Point.Relay()) }
	living := slices.DeleteFunc(slices.Clone(list), dead)
	if len(living) == 0 {
		return list
	}
	for range len(list) - len(living) {
		p.leave(o.Name, "checks do not get through it")
	}
	return living
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
func (p *pool) leave(name, why string) {
	p.left[name] = append(p.left[name], "an introduction point is left out: "+why)
}
