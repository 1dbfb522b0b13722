package balance

import (
	"context"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Preview returns what a service of cfg would publish now, and publishes nothing:
// it waits for the fetches of its instances that are worth waiting for. It knows the
// last editions only from the stored record. Neither the custodian nor the
// signing keys are called.
func Preview(ctx context.Context, cfg Config, env Env) (Plan, error) {
	s := NewService(cfg, env)
	s.begin(ctx)
	defer s.instances.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.followProgram(ctx)
	for {
		now := s.env.Now()
		c, err := s.env.Consensus.Consensus()
		if c == nil {
			return Plan{}, fmt.Errorf("planning for %s: %w", s.address.Short(), err)
		}
		v, err := s.view(now, c)
		if err != nil {
			return Plan{}, fmt.Errorf("planning for %s: %w", s.address.Short(), err)
		}
		p := makePlan(v, s.state)
		s.tellProgram(&p)
		if p.Waiting == "" {
			stored, _, err := s.env.Store.Service(s.address)
			p.compare(now, stored)
			return p, err
		}
		timer := time.NewTimer(p.Next.Sub(now))
		select {
		case <-timer.C:
		case <-s.woken:
			s.inbox.take()
		case <-ctx.Done():
			return Plan{}, fmt.Errorf("planning for %s: %w", s.address.Short(), ctx.Err())
		}
		timer.Stop()
	}
}

// compare fills in the reasons that follow from the stored state of the last editions.
func (p *Plan) compare(now time.Time, stored state.Service) {
	for n := range p.Targets {
		t := &p.Targets[n]
		period := t.Keys.Period
		made := slices.IndexFunc(stored.Made, func(m state.Made) bool { return m.Period == period.Number && m.Minutes == period.Minutes() })
		switch {
		case len(t.places) == 0 || t.places[0].holding.empty():
			t.Held = "there is no introduction point to publish"
		case made < 0:
			t.Reason = ReasonNew
		case stored.Made[made].Contents != digest(t.places, nil):
			t.Reason = ReasonChanged
		case !now.Before(stored.Made[made].Refresh):
			t.Reason = ReasonRefresh
		}
	}
}

// Instance returns the name of the instance that a published point belongs to.
func (p *Plan) Instance(point *descriptor.IntroductionPoint) string {
	for _, c := range p.Chosen {
		if c.Point.AuthKey == point.AuthKey {
			return c.Instance
		}
	}
	return ""
}
