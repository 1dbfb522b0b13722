package balance

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// An instance that a thousand services use is fetched as often as with ten.
func TestFetchesDoNotDependOnServices(t *testing.T) {
	t.Parallel()
	fetches := map[int]int{}
	for _, services := range []int{10, 1000} {
		onSceneOf(t, sim.Config{Seed: 51, Relays: 60}, make([]sim.InstanceConfig, 6), func(t *testing.T, s *scene) {
			cfg := s.config()
			cfg.FetchEvery = 0
			s.service.Reconfigure(cfg)
			for n := range services {
				var a descriptor.Address
				binary.BigEndian.PutUint32(a[:], uint32(n+1))
				sub := s.env.Backends.Subscribe(a, cfg.Watched(), 0, func() {})
				defer sub.Close()
			}
			s.settle(10 * time.Minute)
			before := s.net.Tor().Counts().Fetches
			s.settle(time.Hour)
			fetches[services] = s.net.Tor().Counts().Fetches - before
		})
	}
	if few, many := fetches[10], fetches[1000]; few == 0 || many > few*11/10 || many < few*9/10 {
		t.Errorf("fetches in an hour, by services: %v", fetches)
	}
}

// A change of an instance wakes those who use it, and nobody else; whatever they
// call it.
func TestChangeWakesItsUsers(t *testing.T) {
	onSceneOf(t, sim.Config{Seed: 52, Relays: 60}, make([]sim.InstanceConfig, 2), func(t *testing.T, s *scene) {
		woken := map[string]int{}
		use := func(service byte, name string, instance int) {
			i := backend.Instance{Name: name, Address: s.instances[instance].Address()}
			sub := s.env.Backends.Subscribe(descriptor.Address{service}, []backend.Instance{i}, time.Minute, func() { woken[name]++ })
			t.Cleanup(sub.Close)
		}
		use(1, "one", 0)
		use(2, "the same", 0)
		use(3, "another", 1)
		s.settle(20 * time.Minute)
		clear(woken)
		s.instances[0].ReplacePoints()
		s.settle(3 * time.Minute)
		if woken["one"] == 0 || woken["the same"] == 0 || woken["another"] != 0 {
			t.Errorf("woken: %v", woken)
		}
	})
}

// However rarely healthy instances are fetched, they stay ok; and one that dies is
// found out before HSDirs have dropped its descriptor for long.
func TestRareFetches(t *testing.T) {
	t.Parallel()
	intervals := []time.Duration{50 * time.Minute}
	if soaking() {
		intervals = append(intervals, 20*time.Minute, time.Hour)
	}
	for _, every := range intervals {
		onScene(t, sim.Config{Seed: 5, Params: fewSlots}, func(t *testing.T, s *scene) {
			s.fetchEvery(every)
			s.settle(2 * time.Minute)
			for range 26 * 6 {
				s.settle(10 * time.Minute)
				got := s.want(fmt.Sprintf("fetched every %s, at %s", every, time.Now().Format(time.TimeOnly)), status.StateOK)
				for _, i := range got.Instances {
					if i.State != status.StateOK {
						t.Errorf("fetched every %s, %s is %s", every, i.Name, i.State)
					}
				}
				if t.Failed() {
					return
				}
			}
			s.instances[0].SetOnline(false)
			s.settle(4 * time.Hour)
			if got := s.service.Status(); got.Instances[0].State == status.StateOK {
				t.Errorf("fetched every %s: a dead instance is %s after four hours", every, got.Instances[0].State)
			}
		})
	}
}

// A dead instance is not renewed by a change of the period, at which another of its
// descriptors is looked for.
func TestRenewedOverPeriods(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 7, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}, func(t *testing.T, s *scene) {
		period := func() descriptor.Period {
			c, err := s.watcher.Consensus()
			if err != nil {
				t.Fatal(err)
			}
			return c.CurrentPeriod()
		}
		s.startAt(9 * time.Hour)
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		time.Sleep(time.Until(noon.Add(-50 * time.Minute)))
		before := period()
		s.instances[0].SetOnline(false)
		time.Sleep(time.Until(noon.Add(20 * time.Minute)))
		s.settle(0)
		got := s.service.Status()
		if period() == before {
			t.Fatalf("the period is %v before and after: the test shows nothing", before)
		}
		i := got.Instances[0]
		if i.State != status.StateOK || i.Renewed.After(noon) || !i.RenewedBefore {
			t.Errorf("an instance that died before noon: %s, renewed %s (only a bound: %v)", i.State, i.Renewed, i.RenewedBefore)
		}
	})
}
