package daemon

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// withHosters runs do with two managers that have a shard of their own directories each.
// The keys are in the first one's alone, of two customers and four spares; the second one's is
// not there.
func withHosters(t *testing.T, do func(w *managersWorld, start func(name string) *manager, customers []descriptor.Address)) {
	t.Helper()
	withManagers(t, func(w *managersWorld, _ []descriptor.Address) {
		t := w.t
		customers, _ := makeShard(t, filepath.Join(w.dir, "m1.s1"), 1, 2, 4)
		instances := []*sim.Instance{w.net.AddInstance(sim.InstanceConfig{}), w.net.AddInstance(sim.InstanceConfig{})}
		w.pass(2 * time.Minute)
		do(w, func(name string) *manager {
			w.text = fmt.Sprintf("[[shard]]\nname = \"s1\"\ncustomers = %q\n", name+".s1")
			for n, i := range instances {
				w.text += fmt.Sprintf("[[shard.instance]]\nname = \"web%d\"\naddress = %q\n", n+1, i.Address())
			}
			return w.start(name, "")
		}, customers)
	})
}

// Customers and orders are the cluster's, whichever manager hears of them, and whoever
// publishes.
func TestManagersShareWords(t *testing.T) {
	withHosters(t, func(w *managersWorld, start func(string) *manager, customers []descriptor.Address) {
		t := w.t
		m1 := start("m1")
		defer m1.Stop()
		w.pass(time.Minute)
		m2 := start("m2")
		defer m2.Stop()
		w.pass(3 * time.Minute)
		both := []*manager{m1, m2}
		w.reached("brought along", customers)

		// Added at the one that publishes nothing, whose directory was empty.
		if n := len(m2.runs()); n != 0 {
			t.Errorf("m2 publishes %d", n)
		}
		s := m2.Snapshot().Shards[0]
		if s.State != status.StateElsewhere || s.Customers.Elsewhere != 2 || s.Owners["m1"] != 2 || s.Spares != 4 || len(s.Instances) != 2 || s.Instances[0].State != status.StateOK || len(s.Warnings) != 1 {
			t.Errorf("m2 says of the shard %+v", s)
		}
		shop, added, err := m2.customers.Add(t.Context(), "shop", "", "r1")
		if err != nil || !added {
			t.Fatalf("%+v, %t, %v\n%s", shop, added, err, m2.log)
		}
		w.pass(30 * time.Second)
		w.reached("added", []descriptor.Address{shop.Address})
		for n, m := range both {
			if c, err := m.customers.Customer("shop"); err != nil || c.Confirmed.IsZero() || c.Address != shop.Address || c.Error != "" {
				t.Errorf("manager %d: %+v, %v", n+1, c, err)
			}
			if got := said(m.Daemon, "shop"); !slices.Equal(got, []string{"added", "confirmed"}) {
				t.Errorf("manager %d tells %q", n+1, got)
			}
			if is, err := (mustDir(t, filepath.Join(w.dir, fmt.Sprintf("m%d.s1", n+1)))).Address("shop"); err != nil || is != shop.Address {
				t.Errorf("manager %d has another key: %v, %v", n+1, is.Short(), err)
			}
			if n := m.awaiting(); n != 0 {
				t.Errorf("%d changes are awaited", n)
			}
		}

		// An order at the one that does not publish.
		answer, err := m2.Operate(t.Context(), status.Order{Word: "drain", Instance: "web1"})
		if err != nil || answer.Admin != "drain" {
			t.Fatalf("%+v, %v", answer, err)
		}
		if drain := answer.Uses[0].Instance.Drain; drain == nil || drain.Safe {
			t.Errorf("at once, m2 says %+v", drain)
		}
		w.pass(2 * time.Minute)
		var safe []time.Time
		for n, m := range both {
			answer, err := m.InstanceStatus("web1", "")
			if err != nil || answer.Admin != "drain" {
				t.Fatalf("manager %d: %+v, %v", n+1, answer, err)
			}
			drain := answer.Uses[0].Instance.Drain
			if drain == nil || drain.Safe || drain.Left.IsZero() || drain.SafeAt.IsZero() || drain.Pending+drain.Customers != 0 {
				t.Errorf("manager %d: %+v", n+1, drain)
				continue
			}
			safe = append(safe, drain.SafeAt)
		}
		if len(safe) == 2 && !safe[0].Equal(safe[1]) {
			t.Errorf("safe at %v", safe)
		}
		if _, err := m1.Operate(t.Context(), status.Order{Word: "ready", Instance: "web1"}); err != nil {
			t.Error(err)
		}

		// Suspended while m2 is cut off: it hears of it when it is back, before it publishes.
		m2.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		if _, err := m1.customers.Change(t.Context(), "shop", api.Change{To: hosting.Suspended, Request: "r2"}); err != nil {
			t.Error(err)
		}
		w.pass(time.Minute)
		m1.Stop()
		m2.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		w.pass(2 * time.Minute)
		w.reached("m2 alone", customers)
		if reached(w.net, shop.Address) != nil {
			t.Error("a suspended customer is reached")
		}
		if m2.rooms.backends.Word(w.instance(m2, "web1")).Admin != "" {
			t.Error("m2 did not hear that web1 is ready")
		}
		if _, err := m2.customers.Change(t.Context(), "shop", api.Change{To: hosting.Active, Request: "r3"}); err != nil {
			t.Error(err)
		}
		w.pass(time.Minute)
		w.reached("resumed", []descriptor.Address{shop.Address})
		if _, err := m2.customers.Change(t.Context(), "shop", api.Change{To: hosting.Removed, Request: "r4"}); err != nil {
			t.Error(err)
		}
		w.pass(time.Minute)
		m2.Stop()
		// m1 starts, and knows the customer as it was.
		m1 = start("m1")
		defer m1.Stop()
		w.pass(3 * time.Minute)
		if reached(w.net, shop.Address) != nil {
			t.Errorf("a customer who was removed meanwhile is reached\n%s", m1.log)
		}
		w.reached("m1 alone", customers)
		if c, err := m1.customers.Customer("shop"); err != nil || c.State != hosting.Removed {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// runs lists the services that run here.
func (m *manager) runs() (list []descriptor.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, r := range m.services {
		if r.cancel != nil {
			list = append(list, a)
		}
	}
	return list
}

// awaiting is how many changes are to be confirmed.
func (m *manager) awaiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.customers.awaited)
}

// instance returns the address of a shard's instance.
func (w *managersWorld) instance(m *manager, name string) descriptor.Address {
	for _, i := range m.cfg.Shards[0].Instances {
		if i.Name == name {
			return i.Address
		}
	}
	w.t.Fatalf("there is no %s", name)
	return descriptor.Address{}
}

func mustDir(t *testing.T, path string) *hosting.Dir {
	t.Helper()
	d, err := hosting.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The authorized clients of a service are those of all managers, in whose directory ever they
// were added or removed.
func TestManagersShareClients(t *testing.T) {
	withManagers(t, func(w *managersWorld, services []descriptor.Address) {
		t, a := w.t, services[0]
		one := w.net.AddInstance(sim.InstanceConfig{})
		w.pass(2 * time.Minute)
		keys := map[string]*descriptor.ClientKey{}
		for _, name := range []string{"alice", "bob", "carol", "mallory"} {
			key, err := descriptor.NewClientKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys[name] = key
		}
		place := func(manager string) string { return filepath.Join(w.dir, manager+".clients") }
		add := func(manager, name string) {
			t.Helper()
			if err := clients.Add(place(manager), clients.Client{Name: name, Key: keys[name].Client()}); err != nil {
				t.Error(err)
			}
		}
		remove := func(manager, name string) {
			t.Helper()
			if err := clients.Remove(place(manager), name); err != nil {
				t.Error(err)
			}
		}
		start := func(name string) *manager {
			w.text = strings.Replace(service("a", one), "\n", fmt.Sprintf("\nclients = %q\n", name+".clients"), 1)
			return w.start(name, "")
		}
		// in looks who is let in, and that both directories have the same clients.
		in := func(when string, names ...string) {
			t.Helper()
			w.pass(30 * time.Second)
			for name, key := range keys {
				if r := w.net.NewClient(a, sim.ClientConfig{Key: key}).Request(); (r.Err == nil) != slices.Contains(names, name) {
					t.Errorf("%s: %s: %v", when, name, r.Err)
				}
			}
			for _, manager := range []string{"m1", "m2"} {
				var got []string
				list, err := clients.Read(place(manager))
				for _, c := range list {
					got = append(got, c.Name)
				}
				if err != nil || !slices.Equal(got, names) {
					t.Errorf("%s: %s has %q, %v; want %q", when, manager, got, err, names)
				}
			}
		}
		add("m1", "alice")
		add("m2", "alice")
		add("m2", "mallory") // whom m1 does not have any more
		m1 := start("m1")
		defer m1.Stop()
		w.pass(time.Minute)
		m2 := start("m2")
		defer m2.Stop()
		in("m2 comes", "alice")
		add("m2", "bob")
		in("added at m2", "alice", "bob")
		remove("m1", "alice")
		in("removed at m1", "bob")
		m2.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		add("m2", "carol")
		add("m1", "alice")
		remove("m1", "bob")
		w.pass(20 * time.Second)
		m2.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		w.pass(time.Minute)
		in("m2 was cut off", "alice", "carol")
		m1.Stop() // and m2 publishes
		w.pass(time.Minute)
		remove("m2", "carol")
		w.pass(time.Minute)
		m1 = start("m1")
		defer m1.Stop()
		in("m1 was away", "alice")
	})
}

// The operator's word that an instance is sound ends what the owner's checks hold against it,
// whichever manager hears it, and although it was ready before.
func TestManagersForgive(t *testing.T) {
	withManagers(t, func(w *managersWorld, _ []descriptor.Address) {
		t := w.t
		one, two := w.net.AddInstance(sim.InstanceConfig{}), w.net.AddInstance(sim.InstanceConfig{})
		w.text = "[check]\ninterval = \"2s\"\n" + service("a", one, two)
		w.pass(2 * time.Minute)
		m1 := w.start("m1", "")
		defer m1.Stop()
		w.pass(time.Minute)
		m2 := w.start("m2", "")
		defer m2.Stop()
		if err := m2.Cluster().Drain(true); err != nil { // and m1 stays the owner
			t.Error(err)
		}
		w.pass(time.Minute)
		published := func() int {
			w.pass(0)
			answer, err := m1.InstanceStatus("web1", "")
			if err != nil {
				t.Fatal(err)
			}
			return answer.Uses[0].Instance.Published
		}
		for range 2 {
			one.SetFrozen(true)
			w.pass(time.Minute)
			one.SetFrozen(false)
			w.pass(time.Minute)
		}
		if published() != 0 {
			t.Error("it fell twice, and is published at once")
		}
		answer, err := m2.Operate(t.Context(), status.Order{Word: "ready", Instance: "web1"})
		if err != nil || !answer.Since.IsZero() || answer.Uses[0].Instance.Said != nil {
			t.Errorf("%+v, %v", answer, err)
		}
		w.pass(15 * time.Second)
		if published() == 0 {
			t.Errorf("the operator said to m2 that it is ready, and m1 does not publish it\n%s", m1.log)
		}
	})
}
