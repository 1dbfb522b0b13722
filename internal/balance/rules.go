package balance

import (
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

const liftedWarning = "points.avoid leaves no introduction point, so it is not applied: the service would not be reachable"

// verdict is what a service's rules say of an introduction point.
type verdict struct {
	avoided   string // by which entry; empty if it is not
	open      bool   // it is not known yet whether it is avoided
	preferred int    // as selection.Candidate.Preferred
}

// judge applies points.avoid and points.prefer to an introduction point.
func (v View) judge(p *descriptor.IntroductionPoint) (out verdict) {
	relay, known := v.Relay(p)
	if !known {
		return out
	}
	country := ""
	if v.countries() {
		country, out.open = v.Country(relay.Address())
	}
	if n := v.Config.Avoid.Find(relay, country); n >= 0 {
		out.avoided = v.Config.Avoid[n].String()
	}
	out.open = out.open && out.avoided == "" && v.Config.Avoid.Countries()
	if n := v.Config.Prefer.Find(relay, country); n >= 0 {
		out.preferred = len(v.Config.Prefer) - n
	}
	return out
}

// countries reports whether countries of relays are of interest, and can be known.
func (v View) countries() bool {
	return v.Country != nil && (v.Config.Avoid.Countries() || v.Config.Prefer.Countries())
}

// askCountries has the countries looked up that a plan will ask for: a moment before,
// while it waits for fetches.
func (v View) askCountries() {
	if !v.countries() {
		return
	}
	for _, b := range v.Instances.Backends {
		for n := range b.Offer.Points {
			if relay, known := v.Relay(&b.Offer.Points[n].IntroductionPoint); known {
				v.Country(relay.Address())
			}
		}
	}
}

// obey applies the service's rules to the candidates. Those that are avoided go, and
// those whose country tor is being asked for wait, unless no candidate is left then: a
// service is never without any point because of its rules.
func (p *pool) obey(v View) {
	if v.Relay == nil || len(v.Config.Avoid)+len(v.Config.Prefer) == 0 {
		return
	}
	verdicts := make(map[*descriptor.IntroductionPoint]verdict, len(p.candidates))
	for n := range p.candidates {
		c := &p.candidates[n]
		verdict := v.judge(c.Point)
		verdicts[c.Point], c.Preferred = verdict, verdict.preferred
	}
	some := func(fit func(verdict) bool) bool {
		return slices.ContainsFunc(p.candidates, func(c selection.Candidate) bool { return fit(verdicts[c.Point]) })
	}
	wait := some(func(v verdict) bool { return v.avoided == "" && !v.open })
	p.lifted = len(p.candidates) > 0 && !some(func(v verdict) bool { return v.avoided == "" })
	p.candidates = slices.DeleteFunc(p.candidates, func(c selection.Candidate) bool {
		switch verdict := verdicts[c.Point]; {
		case verdict.avoided != "" && !p.lifted:
			p.leave(c.Instance, "points.avoid has its relay, by "+verdict.avoided)
		case verdict.open && wait:
			p.leave(c.Instance, "the country of its relay is being looked up")
		default:
			return false
		}
		return true
	})
}

// Families lists the relays whose families the rules of a service ask for.
func (c *Config) Families() [][20]byte {
	return slices.Concat(c.Avoid.Families(), c.Prefer.Families())
}
