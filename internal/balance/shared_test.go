package balance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state/statetest"
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
	t.Parallel()
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
		services, stop := s.crowd(12)
		defer stop()
		s.settle(5 * time.Minute)
		if shared := fetches(); shared > alone+alone/10+readBacks(13) {
			t.Errorf("%d fetches an hour for 13 services, %d for one", shared, alone)
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
		if n := s.net.Tor().Counts().Posts - posts; n > 13*16+64 {
			t.Errorf("%d uploads, want %d", n, 13*16)
		}
	})
}

// A thousand services on six instances cost HSDirs as many fetches as ten do.
func TestFetchesOfManyServices(t *testing.T) {
	onSceneOf(t, sim.Config{Seed: 63}, make([]sim.InstanceConfig, 6), func(t *testing.T, s *scene) {
		var counts []int
		for _, services := range []int{10, 1000} {
			set := backend.New(backend.Config{
				Consensus: s.watcher, Fetcher: s.env.Fetcher.(*hsdir.Fetcher), Store: statetest.Open(t, t.TempDir()), Record: s.env.Record,
			})
			for k := range services {
				set.Subscribe(descriptor.Address{byte(k), byte(k >> 8)}, s.config().Watched(), 0, func() {})
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); set.Run(ctx) }()
			before := s.net.Tor().Counts().Fetches
			s.settle(3 * time.Hour)
			counts = append(counts, s.net.Tor().Counts().Fetches-before)
			cancel()
			<-ended
		}
		t.Logf("fetches in three hours, read back included: %d for 10 services, %d for 1000", counts[0], counts[1])
		if few, many := float64(counts[0]), float64(counts[1]); few == 0 || many > 1.05*few || many < few/1.05 {
			t.Errorf("fetches in three hours: %d for 10 services, %d for 1000", counts[0], counts[1])
		}
	})
}

// An instance that only clients with a key can read is read for all services that
// use it, if one of them has the key: at once when that one comes, whatever keys the
// others have, and from the store after a restart.
func TestClientKeyOfAnotherService(t *testing.T) {
	keyOf := func(letter string) *descriptor.ClientKey {
		k, err := descriptor.ParseClientKey([]byte(strings.Repeat(letter, 52)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	clients := []descriptor.AuthorizedClient{keyOf("a").Client()}
	for what, other := range map[string]*descriptor.ClientKey{"no key": nil, "another key": keyOf("b")} {
		onSceneOf(t, sim.Config{Seed: 62, Relays: 30}, []sim.InstanceConfig{{Clients: clients}}, func(t *testing.T, s *scene) {
			with := func(k *descriptor.ClientKey) Config {
				cfg := s.config()
				cfg.Instances[0].Client, cfg.FetchEvery = k, 20*time.Minute
				return cfg
			}
			s.service.Reconfigure(with(other))
			s.settle(5 * time.Minute)
			s.want(what+" alone", status.StateFailed)
			for key := range byte(2) { // after the first, or before it in some order
				cfg := with(keyOf("a"))
				cfg.Keys = s.configOf(120 + key).Keys
				service := NewService(cfg, s.env)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); service.Run(ctx) }()
				s.settle(20 * time.Second)
				s.want(what+", and another service has the key", status.StateOK)
				s.settle(time.Hour)
				s.want(what+", hours later", status.StateOK)
				s.settle(time.Minute)
				cancel()
				<-ended
			}
			// After a restart, the first has nothing until the other is there, though no
			// HSDir answers.
			for _, r := range s.net.Relays() {
				r.SetFaults(sim.Faults{Silent: true})
			}
			s.custody = func(cfg *Config) { cfg.Instances[0].Client = other }
			s.restart()
			s.settle(time.Second)
			cfg := with(keyOf("a"))
			cfg.Keys = s.configOf(125).Keys
			service := NewService(cfg, s.env)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); service.Run(ctx) }()
			s.settle(time.Second)
			if got := s.service.Status().Instances[0]; got.IntroductionPoints == 0 {
				t.Errorf("%s: after a restart the stored descriptor is not used: %+v", what, got)
			}
			cancel()
			<-ended
		})
	}
}
