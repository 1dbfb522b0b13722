package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/testnet/sim"
)

// shardOf is a [[shard]] whose directory is called as it is.
func shardOf(name string, instances ...*sim.Instance) string {
	text := fmt.Sprintf("[[shard]]\nname = %q\ncustomers = %q\n", name, name)
	for n, i := range instances {
		text += fmt.Sprintf("[[shard.instance]]\nname = \"web%d\"\naddress = %q\n", n+1, i.Address())
	}
	return text
}

// makeShard makes the directory of a shard with customers called by their numbers, the first
// being c1 if first is 1, and spares.
func makeShard(t *testing.T, dir string, first byte, customers, spares int) (names, free []descriptor.Address) {
	t.Helper()
	for n := range customers {
		names = append(names, writeKey(t, filepath.Join(dir, fmt.Sprint("c", int(first)+n)), first+byte(n)))
	}
	for n := range spares {
		free = append(free, spareKey(t, dir, first+byte(customers+n)))
	}
	return names, free
}

// said lists the events about a customer, or about the shard if the name is empty.
func said(d *Daemon, customer string) (list []string) {
	events, _, _ := d.customers.Events(0)
	for _, e := range events {
		if e.Customer == customer {
			list = append(list, e.Kind)
		}
	}
	return list
}

// reached reports which instance a new visitor of an address reaches, nil if none.
func reached(net *sim.Network, a descriptor.Address) *sim.Instance {
	return net.NewClient(a, sim.ClientConfig{}).Request().Instance
}

// A customer is added, suspended, resumed and removed while the daemon runs, and after
// each of it the daemon may start anew.
func TestCustomers(t *testing.T) {
	dir := t.TempDir()
	makeShard(t, filepath.Join(dir, "s1"), 1, 3, 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, torTable+shardOf("s1", one, two))
		var shop api.Detail
		change := func(d *Daemon, to hosting.State, want ...string) {
			t.Helper()
			c, err := d.customers.Change(t.Context(), "shop", api.Change{To: to, Request: fmt.Sprint("r", len(want), to)})
			if err != nil || c.State != to || !c.Confirmed.IsZero() {
				t.Fatalf("%s: %+v, %v", to, c, err)
			}
			settle(time.Minute)
			if got := said(d, "shop"); !slices.Equal(got, want) {
				t.Errorf("%s: events %q, want %q", to, got, want)
			}
			if c, err := d.customers.Customer("shop"); err != nil || c.Confirmed.IsZero() || c.Error != "" {
				t.Errorf("%s: %+v, %v", to, c, err)
			}
		}
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			for _, c := range d.customers.registry.All() {
				if c.Confirmed.IsZero() || reached(net, c.Address) == nil {
					t.Errorf("a customer brought along: %+v", c)
				}
			}
			began := time.Now()
			var added bool
			var err error
			shop, added, err = d.customers.Add(t.Context(), "shop", "", "r1")
			if err != nil || !added || shop.Shard != "s1" || time.Since(began) > 0 {
				t.Fatalf("added %+v, %t, %v", shop, added, err)
			}
			for d.awaits(shop.Address) {
				settle(100 * time.Millisecond)
			}
			took := time.Since(began)
			t.Logf("confirmed after %s", took)
			if took > 15*time.Second {
				t.Errorf("confirmed only after %s", took)
			}
			if reached(net, shop.Address) == nil {
				t.Error("a customer that was confirmed is not reached")
			}
			if got := said(d, "shop"); !slices.Equal(got, []string{"added", "confirmed"}) {
				t.Errorf("events %q", got)
			}
			if again, added, err := d.customers.Add(t.Context(), "shop", "", "r1"); err != nil || added || again.Address != shop.Address || again.Points == 0 || again.Slots == 0 || again.Stored != again.Slots {
				t.Errorf("again: %+v, %t, %v", again, added, err)
			}
			change(d, hosting.Suspended, "added", "confirmed", "suspended", "withdrawn")
			if at := reached(net, shop.Address); at != nil {
				t.Error("a suspended customer is reached")
			}
			if d.services[shop.Address] != nil {
				t.Error("what is withdrawn has a service still")
			}
		})
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			if d.services[shop.Address] != nil || reached(net, shop.Address) != nil {
				t.Error("a suspended customer is published after a restart")
			}
			if n := len(d.services); n != 3 {
				t.Errorf("%d services", n)
			}
			change(d, hosting.Active, "resumed", "confirmed")
			if reached(net, shop.Address) == nil {
				t.Error("a resumed customer is not reached")
			}
			change(d, hosting.Removed, "resumed", "confirmed", "removed", "withdrawn")
			if c, err := d.customers.Customer("shop"); err != nil || c.Forgotten.IsZero() || !c.Answered || len(c.Notes) == 0 || reached(net, shop.Address) != nil {
				t.Errorf("removed: %+v, %v", c, err)
			}
			// Its replicas were restarted without it: the key is erased, and it is forgotten.
			if err := os.RemoveAll(filepath.Join(dir, "s1", ".removed", shop.Address.Label())); err != nil {
				t.Fatal(err)
			}
			settle(2 * time.Minute)
			if _, err := d.customers.Customer("shop"); !errors.Is(err, hosting.ErrUnknown) {
				t.Errorf("forgotten: %v", err)
			}
		})
	})
}

// A daemon that ends between a change and its confirmation goes on with it at the next start.
func TestCustomersOverRestart(t *testing.T) {
	dir := t.TempDir()
	all, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 3, 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, torTable+shardOf("s1", one))
		var late descriptor.Address
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			for name, to := range map[string]hosting.State{"c1": hosting.Suspended, "c2": hosting.Removed} {
				if _, err := d.customers.Change(t.Context(), name, api.Change{To: to}); err != nil {
					t.Error(err)
				}
			}
			c, _, err := d.customers.Add(t.Context(), "late", "", "")
			if err != nil {
				t.Error(err)
			}
			late = c.Address
		})
		if reached(net, all[0]) == nil || reached(net, late) != nil {
			t.Error("the daemon did not end in the midst of it: the test shows nothing")
		}
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			for n, want := range []*sim.Instance{nil, nil, one, one} {
				if at := reached(net, append(all, late)[n]); at != want {
					t.Errorf("%d: it is reached at %p, want %p", n, at, want)
				}
			}
			for _, c := range d.customers.registry.All() {
				if c.Confirmed.IsZero() {
					t.Errorf("not confirmed: %+v", c)
				}
			}
			if n := len(d.services); n != 2 {
				t.Errorf("%d services", n)
			}
		})
	})
}

// awaits reports whether the confirmation of a customer is missing.
func (d *Daemon) awaits(a descriptor.Address) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, awaited := d.customers.awaited[a]
	return awaited
}

// A customer who is added while the network is known waits for nothing: not for fetches of
// instances in flight, nor for an instance that is dead. Virtual time.
func TestCustomerConfirmedSoon(t *testing.T) {
	dir := t.TempDir()
	makeShard(t, filepath.Join(dir, "s1"), 1, 0, 20)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+shardOf("s1", one, two)), func(d *Daemon) {
			settle(10 * time.Minute)
			var longest time.Duration
			for n := range 20 {
				if n == 10 {
					two.SetOnline(false)
				}
				c, _, err := d.customers.Add(t.Context(), "", "", "")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for s := d.services[c.Address].Stored(); s.Confirmed == 0 || s.Confirmed < s.Slots; s = d.services[c.Address].Stored() {
					settle(50 * time.Millisecond)
				}
				longest = max(longest, time.Since(began))
				settle(17 * time.Second)
			}
			t.Logf("all HSDirs after %s at most", longest)
			if longest > 15*time.Second {
				t.Errorf("all HSDirs have a new descriptor only after %s", longest)
			}
		})
	})
}

func TestCrowded(t *testing.T) {
	for _, test := range []struct {
		addresses, tors int
		own             bool
		want            string
	}{
		{2500, 1, true, ""},
		{2501, 1, true, "tor.count = 2"},
		{10_000, 5, false, ""},
		{10_000, 4, false, "tor.control"},
	} {
		got := strings.Join(crowded(test.addresses, test.tors, test.own), " ")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// One customer without a usable key is left out; the others are served.
func TestCustomerLeftOut(t *testing.T) {
	dir := t.TempDir()
	all, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 3, 0)
	if err := os.WriteFile(filepath.Join(dir, "s1", "c2", "hs_ed25519_secret_key"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+shardOf("s1", one)), func(d *Daemon) {
			settle(time.Minute)
			if reached(net, all[0]) != one || reached(net, all[2]) != one || len(d.services) != 2 {
				t.Errorf("%d services", len(d.services))
			}
			warnings := strings.Join(d.Snapshot().Shards[0].Warnings, "\n")
			if !strings.Contains(warnings, "c2 is left out") || !strings.Contains(warnings, "no spare key") {
				t.Errorf("warnings: %s", warnings)
			}
		})
	})
}

// Reloads add, change and remove shards, and take over customers that were brought along.
func TestReloadShards(t *testing.T) {
	dir := t.TempDir()
	a, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 2, 1)
	b, _ := makeShard(t, filepath.Join(dir, "s2"), 11, 1, 0)
	front := writeKey(t, filepath.Join(dir, "front"), 21)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two, three := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+service("front", three)), func(d *Daemon) {
			reload := func(text string, want ...int) {
				t.Helper()
				if err := d.Reload(parse(t, dir, torTable+text)); err != nil {
					t.Fatal(err)
				}
				settle(5 * time.Minute)
				for n, address := range append([]descriptor.Address{front, b[0]}, a...) {
					at := 0
					if i := reached(net, address); i != nil && d.services[address] != nil {
						at = 1 + slices.Index([]*sim.Instance{one, two, three}, i)
					}
					if at != want[n] {
						t.Errorf("address %d is served by instance %d, want %d", n, at, want[n])
					}
				}
			}
			reload(service("front", three)+shardOf("s1", one), 3, 0, 1, 1)
			posts := net.Tor().Counts().Posts
			reload(service("front", three)+shardOf("s1", one), 3, 0, 1, 1)
			if n := net.Tor().Counts().Posts - posts; n > 20 { // some refresh in between
				t.Errorf("a reload that changed nothing made %d uploads", n)
			}
			reload(shardOf("s1", two)+shardOf("s2", three), 0, 3, 2, 2)
			c := writeKey(t, filepath.Join(dir, "s2", "late"), 31)
			reload(service("front", three)+shardOf("s1", two)+shardOf("s2", three), 3, 3, 2, 2)
			if reached(net, c) != three {
				t.Error("a customer whose key came later is not reached")
			}
			// What does not fit changes nothing.
			err := d.Reload(parse(t, dir, torTable+service("s1/c1", three)+shardOf("s1", two)+shardOf("s2", three)))
			if err == nil || !strings.Contains(err.Error(), "customer of the shard") {
				t.Errorf("a service with the key of a customer: %v", err)
			}
			reload(service("front", three)+shardOf("s2", three), 3, 3, 0, 0)
		})
	})
}

// Whatever is asked at the same time, with reloads in between: what was answered holds, and
// all are served in the end as they should be.
func TestCustomersAtOnce(t *testing.T) {
	dir := t.TempDir()
	makeShard(t, filepath.Join(dir, "s1"), 1, 0, 30)
	makeShard(t, filepath.Join(dir, "s2"), 101, 0, 30)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		both := torTable + shardOf("s1", one) + shardOf("s2", two)
		onSim(t, net, parse(t, dir, both), func(d *Daemon) {
			final := []hosting.State{hosting.Active, hosting.Suspended, hosting.Removed}
			var wait sync.WaitGroup
			for n := range 45 {
				name := fmt.Sprint("customer", n)
				wait.Go(func() {
					time.Sleep(time.Duration(n%9) * 700 * time.Millisecond)
					first, _, err := d.customers.Add(t.Context(), name, "", name)
					if err != nil {
						t.Error(err)
						return
					}
					for _, to := range []hosting.State{hosting.Suspended, hosting.Active, final[n%3]} {
						if c, err := d.customers.Change(t.Context(), name, api.Change{To: to}); err != nil || c.State != to || c.Address != first.Address {
							t.Errorf("%s: %+v, %v", to, c, err)
						}
						time.Sleep(time.Duration(n%5) * time.Second)
					}
				})
				wait.Go(func() {
					if _, _, err := d.customers.Add(t.Context(), name, "", name); err != nil {
						t.Error(err)
					}
					_, _ = d.customers.Customer(name)
					_, _ = d.customers.List(api.Query{Limit: 7})
				})
			}
			for range 5 {
				time.Sleep(2 * time.Second)
				if err := d.Reload(parse(t, dir, both)); err != nil {
					t.Error(err)
				}
				d.Snapshot()
			}
			wait.Wait()
			settle(10 * time.Minute)
			taken := map[descriptor.Address]bool{}
			for n := range 45 {
				c, err := d.customers.Customer(fmt.Sprint("customer", n))
				if err != nil || c.State != final[n%3] || c.Confirmed.IsZero() || taken[c.Address] {
					t.Errorf("%d: %+v, %v", n, c, err)
					continue
				}
				taken[c.Address] = true
				want := map[string]*sim.Instance{"s1": one, "s2": two}[c.Shard]
				if c.State != hosting.Active {
					want = nil
				}
				if at := reached(net, c.Address); at != want || (d.services[c.Address] != nil) != (want != nil) {
					t.Errorf("%d: it is %s, and reached at %p, want %p", n, c.State, at, want)
				}
			}
			sampled := map[string]int{}
			for _, r := range d.services {
				if r.cfg.Visits.Every != 0 {
					sampled[r.shard]++
				}
			}
			if len(sampled) != 2 || sampled["s1"] != 1 || sampled["s2"] != 1 {
				t.Errorf("visited are %v", sampled)
			}
		})
	})
}

// A customer moves to another shard when that one's replicas know it.
func TestMoveCustomer(t *testing.T) {
	dir := t.TempDir()
	all, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 2, 1)
	makeShard(t, filepath.Join(dir, "s2"), 11, 0, 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+shardOf("s1", one)+shardOf("s2", two)), func(d *Daemon) {
			settle(time.Minute)
			c, err := d.customers.Change(t.Context(), "c1", api.Change{Shard: "s2"})
			if err != nil || c.MovingTo != "s2" || c.Shard != "s1" || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "shard refill s2") {
				t.Fatalf("%+v, %v", c, err)
			}
			if s, err := d.customers.Installed(t.Context(), "s2"); err != nil || s.Spares != 1 {
				t.Errorf("%+v, %v", s, err)
			}
			settle(time.Minute)
			if reached(net, all[0]) != one {
				t.Error("it moved before it was told to")
			}
			if c, err = d.customers.Change(t.Context(), "c1", api.Change{Shard: "s2"}); err != nil || c.MovingTo != "" || c.Shard != "s2" || !c.Confirmed.IsZero() {
				t.Fatalf("%+v, %v", c, err)
			}
			settle(time.Minute)
			if reached(net, all[0]) != two || reached(net, all[1]) != one {
				t.Error("it did not move")
			}
			if r := d.services[all[0]]; r.keys.keys.Reference != r.cfg.Keys.Reference || r.loan.Custodian != r.cfg.Keys.Custodian {
				t.Errorf("its keys are those in %q still, and not those in %q", r.keys.keys.Reference, r.cfg.Keys.Reference)
			}
			if got := said(d, "c1"); !slices.Equal(got, []string{"confirmed", "moved", "confirmed"}) {
				t.Errorf("events %q", got)
			}
			synctest.Wait()
		})
	})
}

// What was asked is done though who asked did not wait for it.
func TestCustomerImpatient(t *testing.T) {
	dir := t.TempDir()
	all, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 1, 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+shardOf("s1", one)), func(d *Daemon) {
			settle(time.Minute)
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			_, _, _ = d.customers.Add(gone, "shop", "", "")
			_, _ = d.customers.Change(gone, "c1", api.Change{To: hosting.Suspended})
			brought, _ := makeShard(t, filepath.Join(dir, "s1"), 11, 2, 0)
			_, _ = d.customers.Installed(gone, "s1")
			settle(time.Minute)
			for _, address := range brought {
				if reached(net, address) != one {
					t.Error("a customer brought along is not reached")
				}
			}
			shop, err := d.customers.Customer("shop")
			if err != nil || shop.Confirmed.IsZero() || reached(net, shop.Address) != one {
				t.Errorf("added: %+v, %v", shop, err)
			}
			c, err := d.customers.Customer("c1")
			if err != nil || c.State != hosting.Suspended || c.Confirmed.IsZero() || reached(net, all[0]) != nil {
				t.Errorf("suspended: %+v, %v", c, err)
			}
			if got := slices.Concat(said(d, "shop"), said(d, "c1")); !slices.Equal(got, []string{"added", "confirmed", "confirmed", "suspended", "withdrawn"}) {
				t.Errorf("events %q", got)
			}
		})
	})
}

// A change of a customer whose address a [[service]] has is not confirmed by that one.
func TestCustomerServedElsewhere(t *testing.T) {
	dir := t.TempDir()
	all, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 1, 0)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+service("s1/c1", one)+shardOf("s1", one)), func(d *Daemon) {
			settle(time.Minute)
			for _, to := range []hosting.State{hosting.Suspended, hosting.Active} {
				if c, err := d.customers.Change(t.Context(), "c1", api.Change{To: to}); err != nil || c.Error == "" {
					t.Errorf("%+v, %v", c, err)
				}
			}
			settle(3 * time.Hour)
			if got := said(d, "c1"); !slices.Equal(got, []string{"suspended", "resumed"}) || d.awaits(all[0]) {
				t.Errorf("%d events, %.5q", len(got), got)
			}
		})
	})
}
