package balance

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/credential"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// crowd starts n more services on the same instances, and returns them and how to
// stop them.
func (s *scene) crowd(n int) ([]*Service, func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wait sync.WaitGroup
	var list []*Service
	for k := range n {
		cfg := s.config()
		cfg.Keys = credential.Keys{Custodian: &memoryCustodian{key: testIdentity(s.t, byte(100+k))}, Signing: credential.Memory{}}
		for i := range cfg.Instances {
			cfg.Instances[i].Name = fmt.Sprintf("web%d-of-%d", i+1, k)
		}
		service := NewService(cfg, s.env)
		wait.Go(func() { service.Run(ctx) })
		list = append(list, service)
	}
	return list, func() { cancel(); wait.Wait() }
}

// Each instance is fetched as often for many services as for one, and a change of
// it reaches all of them.
func TestSharedInstances(t *testing.T) {
	onScene(t, sim.Config{Seed: 60}, func(t *testing.T, s *scene) {
		fetches := func() int {
			before := s.net.Tor().Counts().Fetches
			s.settle(time.Hour)
			return s.net.Tor().Counts().Fetches - before
		}
		// Each service also reads its own descriptor back, at two HSDirs an hour.
		readBacks := func(services int) int { return 4 * services }
		s.settle(5 * time.Minute)
		alone := fetches()
		services, stop := s.crowd(30)
		defer stop()
		s.settle(5 * time.Minute)
		if shared := fetches(); shared > alone+alone/10+readBacks(31) {
			t.Errorf("%d fetches an hour for 31 services, %d for one", shared, alone)
		}
		posts := s.net.Tor().Counts().Posts
		s.instances[1].ReplacePoints()
		s.settle(3 * time.Minute)
		for k, service := range services {
			got := service.Status()
			if got.State != status.StateOK || time.Since(got.Descriptors[0].Built) > 3*time.Minute || got.Instances[1].Name != fmt.Sprintf("web2-of-%d", k) {
				t.Fatalf("service %d did not follow: %s, %q, %+v", k, got.State, got.Warnings, got.Descriptors[0].Built)
			}
		}
		if n := s.net.Tor().Counts().Posts - posts; n > 31*16+64 {
			t.Errorf("%d uploads, want %d", n, 31*16)
		}
	})
}

// With rare fetches healthy instances are ok all the time, and a dead one is found
// out before HSDirs have dropped it for long.
func TestRareFetches(t *testing.T) {
	for _, every := range []time.Duration{20 * time.Minute, 50 * time.Minute, time.Hour} {
		onScene(t, sim.Config{Seed: 61}, func(t *testing.T, s *scene) {
			s.fetchEvery(every)
			for range 36 * 6 {
				s.settle(10 * time.Minute)
				for _, i := range s.service.Status().Instances {
					if i.State != status.StateOK {
						t.Fatalf("every %v, after %v: %s is %s: %s", every, time.Since(s.began), i.Name, i.State, i.Error)
					}
				}
			}
			s.instances[0].SetOnline(false)
			s.settle(3*time.Hour + 2*every)
			if got := s.service.Status(); got.Instances[0].State == status.StateOK || got.Instances[0].Published > 0 {
				t.Errorf("every %v: a dead instance is %s, with %d points published", every, got.Instances[0].State, got.Instances[0].Published)
			}
		})
	}
}

// A dead instance is not renewed by a change of the period, at which another of
// its descriptors is looked for.
func TestRenewedOverPeriods(t *testing.T) {
	onScene(t, sim.Config{Seed: 7, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}, func(t *testing.T, s *scene) {
		period := func() uint64 {
			c, err := s.watcher.Consensus()
			if err != nil {
				t.Fatal(err)
			}
			return c.CurrentPeriod().Number
		}
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		time.Sleep(time.Until(noon.Add(-50 * time.Minute)))
		before := period()
		s.instances[0].SetOnline(false)
		time.Sleep(time.Until(noon.Add(20 * time.Minute)))
		s.settle(0)
		if period() == before {
			t.Fatalf("the period is %d before and after: the test shows nothing", before)
		}
		if i := s.service.Status().Instances[0]; i.State != status.StateOK || i.Renewed.After(noon) || !i.RenewedBefore {
			t.Errorf("an instance that died before noon: %s, renewed %s (only a bound: %v)", i.State, i.Renewed, i.RenewedBefore)
		}
	})
}

// All slots of a period carry one revision counter, whatever happens: HSDirs that
// come and go, refuse or do not answer, and restarts.
func TestOneCounterForAllSlots(t *testing.T) {
	onScene(t, sim.Config{Seed: 62}, func(t *testing.T, s *scene) {
		check := func(when string) {
			t.Helper()
			for _, d := range s.service.Status().Descriptors {
				if d.Confirmed == len(d.Slots) && d.Confirmed > 0 {
					continue
				}
				t.Errorf("%s: %d of %d slots of the %s descriptor have its last counter", when, d.Confirmed, len(d.Slots), d.Which)
			}
		}
		for hour := range 14 {
			if hour%3 == 1 {
				s.instances[hour%2].ReplacePoints()
			}
			if hour%5 == 4 {
				s.restart()
			}
			s.settle(time.Hour)
			check(fmt.Sprintf("after %d hours", hour+1))
		}
	})
}
