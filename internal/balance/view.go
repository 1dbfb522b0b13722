package balance

import (
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/times"
)

// view gathers the input of a plan.
func (s *Service) view(now time.Time, c *hsdir.Consensus) (v View, err error) {
	v = View{Now: now, Config: s.cfg, Instances: s.instances.View()}
	v.Config.Clients, v.own = s.clients(), s.client()
	v.heed(s.advised.advisor)
	v.Unreached = s.unreached(v.Instances)
	v.Urgent, v.Waiting = v.Instances.Urgent != s.urgent, s.waiting
	if v.Instances.Jumps != s.jumps {
		s.jumps = v.Instances.Jumps
		s.slept(now)
	}
	if c == nil {
		return v, nil
	}
	v.Relay, v.Country = c.Relay, s.env.Country
	v.askCountries()
	v.Vouch, v.SendmeInc, v.valid = c.Vouch, c.Params.SendmeInc, [2]time.Time{c.ValidAfter, c.ValidUntil}
	v.offset, v.outdated = c.RotationOffset(), c.ValidUntil.Sub(c.FreshUntil)
	for role := range v.Targets {
		t := &v.Targets[role]
		if t.Ring, err = c.Ring(hsdir.Role(role)); err != nil {
			return v, err
		}
		if t.Ring.Period == c.CurrentPeriod() {
			v.Current = hsdir.Role(role)
		}
		if known := s.plan.target(t.Ring); known != nil {
			t.Keys, t.Slots = known.Keys, known.Slots
			continue
		}
		if t.Keys = s.keysOf(t.Ring.Period); t.Keys.Period != t.Ring.Period {
			if t.Keys, err = s.address.Keys(t.Ring.Period); err != nil {
				return v, err
			}
		}
		t.Slots = t.Ring.Slots(t.Keys.Blinded)
	}
	return v, nil
}

// slept has published descriptors judged by the wall clock: the monotonic one, which
// times are compared by, stopped while the machine was suspended, and HSDirs dropped
// what they had.
func (s *Service) slept(now time.Time) {
	for _, e := range s.state.Editions {
		e.Built, e.Refresh, e.heard = e.Built.Round(0), e.Refresh.Round(0), e.heard.Round(0)
		e.due, e.removed, e.added = e.due.Round(0), e.removed.Round(0), e.added.Round(0)
	}
	s.doubt()
	if r := &s.readback; !r.due.IsZero() {
		r.due = times.Earlier(r.due, now.Add(readbackFirst))
	}
}

// credentials fills in the credentials, and requests missing ones from the
// custodian.
func (s *Service) credentials(now time.Time, c *hsdir.Consensus, v *View) {
	s.keys.LookAhead(now, c.CurrentPeriod(), c.RotationOffset())
	s.keys.Require(now, [2]credential.Need{v.need(0), v.need(1)})
	for role := range v.Targets {
		v.Targets[role].Credential = s.keys.Usable(now, v.Targets[role].Ring.Period)
	}
}

// keysOf returns the keys of a period from the cache of the last turn, else none:
// every consensus has new rings, mostly of the same periods, and blinding an address
// takes as long as making a descriptor.
func (s *Service) keysOf(p descriptor.Period) descriptor.PeriodKeys {
	for _, t := range s.report.seen.targets {
		if t.Keys.Period == p {
			return t.Keys
		}
	}
	return descriptor.PeriodKeys{}
}
