package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/relayset"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

func TestChanges(t *testing.T) {
	strategy := func(name string) selection.Strategy {
		s, err := selection.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	clientOf := func(seed string) *descriptor.ClientKey {
		k, err := descriptor.ParseClientKey([]byte(strings.Repeat(seed, 52)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	web := func(n byte) balance.Instance {
		return balance.Instance{Name: fmt.Sprintf("web%d", n), Address: descriptor.Address{n}, Weight: 1}
	}
	base := func() balance.Config {
		return balance.Config{
			Strategy: strategy("spread"), Room: selection.Room{Points: 20, PerInstance: 6},
			Keys: credential.Keys{Reference: "front\n"}, Instances: []balance.Instance{web(1), web(2)},
		}
	}
	for _, test := range []struct {
		what   string
		change func(c *balance.Config)
		want   string
	}{
		{"nothing", func(*balance.Config) {}, "[]"},
		{"another order", func(c *balance.Config) { c.Instances = []balance.Instance{web(2), web(1)} }, "[]"},
		{"more instances", func(c *balance.Config) { c.Instances = append(c.Instances, web(3), web(4)) }, "[added web3, web4]"},
		{"one less", func(c *balance.Config) { c.Instances = c.Instances[1:] }, "[removed web1]"},
		{"another address under the old name", func(c *balance.Config) { c.Instances[0].Address = descriptor.Address{9} }, "[added web1 removed web1]"},
		{"another name", func(c *balance.Config) { c.Instances[0].Name = "old" }, "[changed web1 is now called old]"},
		{"weights", func(c *balance.Config) {
			c.Strategy, c.Instances[0].Weight, c.Instances[1].Weight = strategy("weighted"), 0, 2.5
		},
			"[changed web1 weight 1 -> 0, web2 weight 1 -> 2.5 strategy spread -> weighted]"},
		{"a client key", func(c *balance.Config) { c.Instances[0].Client = clientOf("a") }, "[changed web1 client_key]"},
		{"rules", func(c *balance.Config) {
			c.Avoid, _ = relayset.ParseSet([]string{"{de}", "flag:exit"})
		}, "[points.avoid none -> {de},flag:Exit]"},
		{"limits", func(c *balance.Config) {
			c.Room, c.FetchEvery = selection.Room{Points: 12, PerInstance: 3}, 10*time.Minute
		},
			"[max_introduction_points 20 -> 12 points_per_instance 6 -> 3 fetch_interval automatic -> 10m0s]"},
		{"a profile", func(c *balance.Config) { c.Ordinary, c.Room.Points = true, 3 }, "[profile balanced -> ordinary max_introduction_points 20 -> 3]"},
		{"keys", func(c *balance.Config) { c.Keys.Reference = "front\npkcs11:token=T" }, "[keys changed]"},
	} {
		now := base()
		test.change(&now)
		if got := fmt.Sprint(changes(base(), now)); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
	one, other := base(), base()
	one.Instances[0].Client, other.Instances[0].Client = clientOf("a"), clientOf("b")
	if got := fmt.Sprint(changes(one, other)); got != "[changed web1 client_key]" {
		t.Errorf("another client key: %s", got)
	}
	other.Instances[0].Client = clientOf("a")
	if got := changes(one, other); got != nil {
		t.Errorf("the same client key, read again: %s", got)
	}
}

// What the file says and is not in force is told until it is, or is no longer said.
func TestReloadNeedsRestart(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		text := torTable + service("a", net.AddInstance(sim.InstanceConfig{}))
		onSim(t, net, parse(t, dir, text), func(d *Daemon) {
			loaded := d.Snapshot().Loaded
			time.Sleep(time.Minute)
			for _, test := range []struct {
				text, pending string
			}{
				{strings.Replace(text, "127.0.0.1:1", "127.0.0.1:2", 1), "tor.control"},
				{strings.Replace(text, "127.0.0.1:1", "127.0.0.1:2", 1), "tor.control"},
				{"state_dir = \"elsewhere\"\n" + text, "state_dir"},
				{text, ""},
			} {
				given := parse(t, dir, test.text)
				if err := d.Reload(given); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(given, parse(t, dir, test.text)) {
					t.Errorf("the reload changed its argument to %+v", given)
				}
				s := d.Snapshot()
				var want []string
				if test.pending != "" {
					want = []string{test.pending + " takes effect after a restart"}
				}
				if !slices.Equal(s.Warnings, want) {
					t.Errorf("warnings %q after\n%s", s.Warnings, test.text)
				}
				if !s.Loaded.After(loaded) {
					t.Errorf("in force since %s, as before", s.Loaded)
				}
			}
			loaded = d.Snapshot().Loaded
			time.Sleep(time.Minute)
			d.ReloadFailed(os.ErrNotExist)
			if s := d.Snapshot(); !s.Loaded.Equal(loaded) || s.Refused() == nil {
				t.Errorf("after a refused reload: in force since %s, want %s; refused %v", s.Loaded, loaded, s.Refused())
			}
		})
	})
}
