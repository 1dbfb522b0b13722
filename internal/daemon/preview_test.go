package daemon

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/sim"
)

// Plans are made for one active customer of each shard, or for the one that is asked for.
func TestHostedPreviews(t *testing.T) {
	dir := t.TempDir()
	a, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 3, 1)
	b, _ := makeShard(t, filepath.Join(dir, "s2"), 11, 2, 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		cfg := parse(t, dir, torTable+shardOf("s1", one)+shardOf("s2", one))
		onSim(t, net, cfg, func(d *Daemon) {
			time.Sleep(time.Minute)
			if _, err := d.customers.Change(t.Context(), "c1", api.Change{To: hosting.Suspended}); err != nil {
				t.Fatal(err)
			}
		})
		store, err := state.OpenReadOnly(cfg.StateDir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		for _, test := range []struct {
			customer  string
			shards    []string
			among     []descriptor.Address
			withdrawn bool
		}{
			{"", []string{"s1", "s2"}, append(a[1:3:3], b...), false},
			{"c2", []string{"s1"}, a[1:2], false},
			{b[1].String(), []string{"s2"}, b[1:], false},
			{"c1", []string{"s1"}, a[:1], true},
		} {
			list, err := hostedPreviews(cfg, readOnly{store}, test.customer)
			if err != nil || len(list) != len(test.shards) {
				t.Errorf("%q: %+v, %v", test.customer, list, err)
				continue
			}
			for n, p := range list {
				known := false
				for _, address := range test.among {
					known = known || p.Service == address
				}
				if p.Shard != test.shards[n] || !known || p.cfg.Withdrawn != test.withdrawn || !p.cfg.Hosted || len(p.cfg.Instances) != 1 || p.cfg.Keys.Custodian.Address() != p.Service {
					t.Errorf("%q: %+v", test.customer, p)
				}
			}
		}
		if _, err := hostedPreviews(cfg, readOnly{store}, "nobody"); !errors.Is(err, hosting.ErrUnknown) {
			t.Errorf("nobody: %v", err)
		}
	})
}
