package balance

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// A service with authorized clients answers them and nobody else, reads its own
// descriptor back though it has no client's key, and publishes its CAA records.
func TestRestricted(t *testing.T) {
	key, err := descriptor.ParseClientKey([]byte("descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	if err != nil {
		t.Fatal(err)
	}
	caa, err := descriptor.ParseCAA(`0 issue "ca.example"`)
	if err != nil {
		t.Fatal(err)
	}
	onScene(t, sim.Config{Seed: 45}, func(t *testing.T, s *scene) {
		cfg := s.config()
		cfg.Clients, cfg.CAA = []descriptor.AuthorizedClient{key.Client()}, []descriptor.CAA{caa}
		s.service.Reconfigure(cfg)
		s.settle(10 * time.Minute)
		if got := s.want("restricted", status.StateOK); got.ReadBack.IsZero() {
			t.Error("the descriptor was not read back")
		}
		for range 6 {
			known := s.net.NewClient(s.custodian.Address(), sim.ClientConfig{Key: key})
			if r := known.Request(); r.Err != nil {
				t.Errorf("a client with the key: %v", r.Err)
			}
			if r := s.client().Request(); r.Err == nil {
				t.Error("a client without a key was answered")
			}
		}
		c, err := s.watcher.Consensus()
		if err != nil {
			t.Fatal(err)
		}
		keys, err := s.custodian.Address().Keys(c.CurrentPeriod())
		if err != nil {
			t.Fatal(err)
		}
		fetcher := s.env.Fetcher.(*hsdir.Fetcher)
		if got, err := fetcher.Fetch(t.Context(), c, keys, key, 0, time.Now()); err != nil || !slices.Equal(got.Descriptor.CAA, cfg.CAA) {
			t.Errorf("with the key: %v", err)
		}
		if _, err := fetcher.Fetch(t.Context(), c, keys, nil, 0, time.Now()); !errors.Is(err, descriptor.ErrClientKey) {
			t.Errorf("without a key: %v", err)
		}
	})
}

// Where authorized clients leave room for fewer points than there are instances, each
// has points in some slots.
func TestClientsLeaveLittleRoom(t *testing.T) {
	cfg := sim.Config{Seed: 46, Relays: 200, Params: map[string]int32{"HSV3MaxDescriptorSize": 20000}}
	onSceneOf(t, cfg, make([]sim.InstanceConfig, 7), func(t *testing.T, s *scene) {
		cfg := s.config()
		for n := range byte(48) {
			cfg.Clients = append(cfg.Clients, descriptor.AuthorizedClient{PublicKey: [32]byte{n, 9}})
		}
		s.service.Reconfigure(cfg)
		s.settle(2 * time.Minute)
		got := s.want("with many clients", status.StateOK)
		for _, i := range got.Instances {
			if i.Published == 0 || i.Share == 0 {
				t.Errorf("%s has %d points published", i.Name, i.Published)
			}
		}
		for _, slot := range got.Descriptors[0].Slots {
			if slot.Points < 4 || slot.Points > 6 {
				t.Errorf("%d points in a slot with room for 6", slot.Points)
			}
		}
	})
}

// A configuration of which no descriptor can be made leaves the last one published,
// says so, and keeps nobody busy.
func TestImpossibleContents(t *testing.T) {
	onScene(t, sim.Config{Seed: 46}, func(t *testing.T, s *scene) {
		s.settle(10 * time.Minute)
		rounds := s.want("before", status.StateOK).Rounds
		cfg := s.config()
		for range 40 {
			cfg.CAA = append(cfg.CAA, descriptor.CAA{Tag: "issue", Value: "ca.example"})
		}
		s.service.Reconfigure(cfg)
		certified := s.custodian.times()
		s.settle(3 * time.Hour)
		got := s.want("impossible", status.StateDegraded)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), "more than 32") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		if n := s.custodian.times() - certified; n > 2 {
			t.Errorf("certified %d times", n)
		}
		if n := got.Rounds - rounds; n > 500 {
			t.Errorf("%d rounds", n)
		}
		s.service.Reconfigure(s.config())
		s.settle(10 * time.Minute)
		s.want("possible again", status.StateOK)
		s.reach("possible again", 5)
	})
}
