package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/check"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/config"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// managersWorld is managers that share an engine and a simulated network, in virtual time.
type managersWorld struct {
	t      *testing.T
	dir    string
	net    *sim.Network
	engine *clustertest.Fake
	text   string // of the services
}

// withManagers runs do with the services of two keys, and no manager yet.
func withManagers(t *testing.T, do func(w *managersWorld, services []descriptor.Address)) {
	t.Helper()
	dir := t.TempDir()
	services := []descriptor.Address{writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2), writeKey(t, filepath.Join(dir, "c"), 3)}
	simulated(t, func(t *testing.T, net *sim.Network) {
		w := &managersWorld{t: t, dir: dir, net: net, engine: clustertest.New()}
		w.writeKey(cluster.NewKey())
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		w.text = service("a", one, two) + service("b", one, two) + service("c", one, two)
		time.Sleep(2 * time.Minute)
		do(w, services)
	})
}

// fakeEngine is a manager's connection to the engine.
type fakeEngine struct{ *clustertest.Client }

func (fakeEngine) Close() {}

// manager is a daemon in the cluster.
type manager struct {
	*Daemon
	w      *managersWorld
	client *clustertest.Client
	log    *strings.Builder
}

// config is that of a manager, with more in [cluster].
func (w *managersWorld) config(name, more string) *config.Config {
	dir := filepath.Join(w.dir, name+".d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	text := "state_dir = \"" + dir + "\"\n" + torTable +
		fmt.Sprintf("[cluster]\nstore = \"etcd\"\nmanager = %q\nendpoints = \"http://127.0.0.1:1\"\nkey = \"cluster.key\"\n%s", name, more)
	return parse(w.t, w.dir, text+w.text)
}

// start starts a process of a manager.
func (w *managersWorld) start(name, more string) *manager {
	w.t.Helper()
	return w.startAt(name, more, w.net.Tor())
}

// startAt does the same with a tor of its own.
func (w *managersWorld) startAt(name, more string, own *sim.Tor) *manager {
	w.t.Helper()
	m := &manager{w: w, client: w.engine.Client(), log: new(strings.Builder)}
	d, err := New(w.config(name, more), "test", slog.New(slog.NewTextHandler(m.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	m.Daemon = d
	d.open = func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error) {
		return tor.NewPool(tor.New("simulated", control.New(control.Config{Dial: own.Dial}))), nil
	}
	d.engine = func(config.Cluster, clusterFiles, check.Dialer) (clusterEngine, error) {
		return fakeEngine{m.client}, nil
	}
	d.serve = func() {}
	d.dialer = w.net.Dialer()
	if err := d.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// pass lets time pass.
func (w *managersWorld) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// owned lists the services that a manager says it publishes.
func (m *manager) owned() (list []string) {
	for _, s := range m.Snapshot().Services {
		if s.Owner.Owning == status.OwningHere {
			list = append(list, s.Address)
		}
		if (s.Owner.Owning == status.OwningElsewhere) != (s.State == status.StateElsewhere) {
			m.w.t.Errorf("%s is %s and %s", s.Address, s.Owner.Owning, s.State)
		}
	}
	return list
}

// reached reports an error if a new client does not reach a service.
func (w *managersWorld) reached(when string, services []descriptor.Address) {
	w.t.Helper()
	for _, a := range services {
		if r := w.net.NewClient(a, sim.ClientConfig{}).Request(); r.Err != nil {
			w.t.Errorf("%s: %s: %v", when, a.Short(), r.Err)
		}
	}
}

// TestManagers: two managers share services. One drains and takes part again, one dies and
// comes back, and nothing is published again that was not due.
func TestManagers(t *testing.T) {
	withManagers(t, func(w *managersWorld, services []descriptor.Address) {
		m1 := w.start("m1", "")
		w.pass(time.Minute)
		m2 := w.start("m2", "")
		w.pass(time.Minute)
		owned := func(when string, n1, n2 int) {
			t.Helper()
			if a, b := len(m1.owned()), len(m2.owned()); a != n1 || b != n2 {
				t.Errorf("%s: m1 owns %d, want %d, and m2 %d, want %d\n%s\n%s", when, a, n1, b, n2, m1.log, m2.log)
			}
			w.reached(when, services)
		}
		owned("when m2 has just come", 3, 0)
		if c := m2.Cluster().Status(); c.Services != 3 || c.Elsewhere != 3 || len(c.Members) != 2 || !c.Joined || c.Store.Error != "" {
			t.Errorf("the status of m2: %+v", c)
		}
		if c := m1.Cluster().Status(); c.Counts.Taken != (status.Taken{Free: 3}) || c.Reserved.Before(time.Now().Add(5*time.Hour)) || c.Holding != 0 {
			t.Errorf("the status of m1: %+v", c)
		}
		for _, s := range m2.Snapshot().Services {
			if len(s.Instances) != 2 || s.Instances[0].State != status.StateOK || len(s.Warnings)+len(s.Instances[0].Warnings) > 0 {
				t.Errorf("of another's service m2 says %+v", s)
			}
		}

		posts := w.net.Tor().Counts().Posts
		if err := m1.Cluster().Drain(true); err != nil {
			t.Error(err)
		}
		w.pass(5 * time.Second)
		owned("when m1 drains", 0, 3)
		if err := m1.Cluster().Drain(false); err != nil {
			t.Error(err)
		}
		w.pass(10 * time.Second)
		owned("when it drains no more", 0, 3)
		if n := w.net.Tor().Counts().Posts - posts; n != 0 {
			t.Errorf("moving services took %d uploads\n%s", n, m2.log)
		}

		m2.client.Set(func(f *clustertest.Faults) { f.Cut = true }) // it is taken for dead
		w.pass(15 * time.Second)
		if n := len(m1.owned()); n != 3 {
			t.Errorf("15 s after m2 was cut off m1 owns %d\n%s", n, m1.log)
		}
		if c := m1.Cluster().Status(); c.Counts.Taken != (status.Taken{Free: 3, Dead: 3}) {
			t.Errorf("taken: %+v", c.Counts.Taken)
		}
		w.reached("when m2 is cut off", services)
		m2.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		w.pass(20 * time.Second)
		owned("when m2 is back", 3, 0)
		if c := m2.Cluster().Status(); c.Counts.Fenced != 3 {
			t.Errorf("m2 was fenced: %+v", c.Counts)
		}
		if n := w.net.Tor().Counts().Posts - posts; n != 0 {
			t.Errorf("moving services took %d uploads\n%s", n, m2.log)
		}
		w.pass(3 * time.Hour)
		w.reached("three hours later", services)
		if n := len(m1.owned()) + len(m2.owned()); n != 3 {
			t.Errorf("the two own %d of 3", n)
		}

		m1.Stop()
		w.pass(2 * time.Second)
		if n := len(m2.owned()); n != 3 {
			t.Errorf("2 s after m1 was stopped m2 owns %d", n)
		}
		m1 = w.start("m1", "")
		w.pass(10 * time.Second)
		owned("when m1 was started again", 0, 3)
		m2.Stop()
		m1.Stop()
		m1 = w.start("m1", "")
		w.pass(20 * time.Second)
		if c := m1.Cluster().Status(); c.Owned != 3 {
			t.Errorf("alone again: %+v", c)
		}
		w.reached("at the end", services)
		m1.Stop()
	})
}

// TestManagersReload: services that both managers lose and get again, and a cluster key that
// is replaced while they run.
func TestManagersReload(t *testing.T) {
	withManagers(t, func(w *managersWorld, services []descriptor.Address) {
		m1 := w.start("m1", "")
		w.pass(time.Minute)
		m2 := w.start("m2", "")
		w.pass(time.Minute)
		reload := func(m *manager, name string) {
			t.Helper()
			if err := m.Reload(w.config(name, "")); err != nil {
				t.Error(err)
			}
		}
		all, less := w.text, w.text[:strings.LastIndex(w.text, "[[service]]\n")]
		for _, step := range []struct {
			text string
			want int
		}{{less, 2}, {all, 3}} {
			w.text = step.text
			reload(m1, "m1")
			w.pass(time.Second)
			reload(m2, "m2")
			w.pass(20 * time.Second)
			if a, b := m1.Cluster().Status(), m2.Cluster().Status(); a.Owned+b.Owned != step.want || a.Services != step.want || b.Services != step.want {
				t.Errorf("with %d services: %+v\n%+v", step.want, a, b)
			}
		}
		w.text = less // and back, before the cluster has heard of it
		reload(m1, "m1")
		w.text = all
		reload(m1, "m1")
		w.pass(20 * time.Second)
		if a, b := len(m1.owned()), len(m2.owned()); a+b != 3 {
			t.Errorf("after a change that was taken back m1 owns %d and m2 %d", a, b)
		}
		w.pass(3 * time.Hour)
		w.reached("three hours later", services)

		path := filepath.Join(w.dir, "cluster.key")
		key, err := cluster.ReadKey(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range []func(*cluster.Key) (*cluster.Key, error){(*cluster.Key).Add, (*cluster.Key).Turn, (*cluster.Key).Drop} {
			if key, err = change(key); err != nil {
				t.Fatal(err)
			}
			w.writeKey(key)
			reload(m1, "m1")
			reload(m2, "m2")
			w.pass(2 * time.Minute) // members write their keys again
			for _, m := range []*manager{m1, m2} {
				if c := m.Cluster().Status(); c.Store.OldKey != 0 || c.Store.Damaged != 0 || c.Store.Error != "" || len(c.Members) != 2 {
					t.Errorf("with another key: %+v", c)
				}
			}
		}
		w.writeKey(cluster.NewKey())
		if err := m1.Reload(w.config("m1", "")); err == nil {
			t.Error("a key of another cluster is taken")
		}
		w.pass(3 * time.Hour)
		w.reached("with another key", services)
		m1.Stop()
		m2.Stop()
	})
}

func (w *managersWorld) writeKey(key *cluster.Key) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "cluster.key"), lockedtest.Bytes(key.Text()), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestManagersWithoutStore: what a manager does while the store does not answer, to the end
// of its reservation, and when it is started then.
func TestManagersWithoutStore(t *testing.T) {
	for _, hold := range []bool{false, true} {
		t.Run(fmt.Sprintf("hold=%t", hold), func(t *testing.T) {
			withManagers(t, func(w *managersWorld, services []descriptor.Address) {
				more := "reserve = \"2h30m\"\n"
				if hold {
					more += "when_unavailable = \"hold\"\n"
				}
				m := w.start("m1", more)
				w.pass(time.Minute)
				posted := func() int { return w.net.Tor().Counts().Posts }
				w.engine.Down(true)
				w.pass(2 * time.Minute)
				before := posted()
				w.pass(time.Hour + 58*time.Minute)
				if n := posted() - before; (n == 0) != hold {
					t.Errorf("in two hours without a store there were %d uploads", n)
				}
				w.reached("two hours without a store", services)
				if c := m.Cluster().Status(); c.Store.Error == "" || c.Owned != 3 || c.Joined {
					t.Errorf("the status: %+v", c)
				}
				w.pass(time.Hour)
				before = posted()
				w.pass(2 * time.Hour)
				if n := posted() - before; n != 0 {
					t.Errorf("after the reservation there were %d uploads", n)
				}
				if c := m.Cluster().Status(); !hold && (c.Holding != 3 || c.Counts.Held == 0) {
					t.Errorf("after the reservation: %+v", c)
				}
				if s := m.Snapshot().Services[0]; !hold && s.Owner.Owning != status.OwningHolding {
					t.Errorf("after the reservation %+v", s.Owner)
				}
				m.Stop()
				m = w.start("m1", more)
				w.pass(time.Minute)
				if n := posted() - before; n != 0 {
					t.Errorf("started without a store it made %d uploads", n)
				}
				if c := m.Cluster().Status(); len(c.Warnings) != 1 || c.Warnings[0] != errUnjoined.Error() || !strings.Contains(m.log.String(), errUnjoined.Error()) {
					t.Errorf("started without a store: %+v\n%s", c, m.log)
				}
				if o := m.Snapshot().Services[0].Owner; *o != (status.Owner{}) {
					t.Errorf("started without a store it says of the owner %+v", o)
				}
				w.engine.Down(false)
				w.pass(time.Minute)
				w.reached("with a store again", services)
				if c := m.Cluster().Status(); c.Owned != 3 || c.Holding != 0 || c.Store.Error != "" || len(c.Warnings) != 0 {
					t.Errorf("with a store again: %+v", c)
				}
				m.Stop()
			})
		})
	}
}

// TestManagersCustody: one manager has no key of a service, and is told of an orphan when the
// other, whose tor is lost at first, dies. A store that was wiped is not taken for a new one.
func TestManagersCustody(t *testing.T) {
	withManagers(t, func(w *managersWorld, services []descriptor.Address) {
		own := w.net.AddTor(sim.TorConfig{})
		m1 := w.startAt("m1", "", own)
		w.pass(time.Minute)
		if err := os.Rename(filepath.Join(w.dir, "c"), filepath.Join(w.dir, "hidden")); err != nil {
			t.Fatal(err)
		}
		m2 := w.start("m2", "")
		if err := os.Rename(filepath.Join(w.dir, "hidden"), filepath.Join(w.dir, "c")); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)

		own.SetFaults(sim.ControlFaults{Refuse: true})
		own.Restart(0, 0)
		w.pass(3 * time.Minute)
		if c1, c2 := m1.Cluster().Status(), m2.Cluster().Status(); c1.Unfit == "" || c1.Owned != 1 || c2.Owned != 2 {
			t.Errorf("without a tor: m1 %+v\nm2 %+v", c1, c2)
		}
		own.SetFaults(sim.ControlFaults{})
		w.pass(2 * time.Minute)
		if c := m1.Cluster().Status(); c.Unfit != "" {
			t.Errorf("with its tor again m1 is unfit: %s", c.Unfit)
		}
		w.reached("with its tor again", services)

		m1.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		w.pass(30 * time.Second)
		if c := m2.Cluster().Status(); c.Orphaned != 1 || c.Orphans[0] != services[2].String() || c.Owned != 2 || c.Taking() != 0 {
			t.Errorf("without m1: %+v", c)
		}
		m1.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		w.pass(30 * time.Second)
		if c := m2.Cluster().Status(); c.Orphaned != 0 {
			t.Errorf("with m1 again: %+v", c)
		}
		m1.Stop()
		m2.Stop()

		w.engine.Wipe()
		m1 = w.startAt("m1", "", own)
		w.pass(time.Minute)
		if c := m1.Cluster().Status(); !strings.Contains(c.Store.Error, "was wiped") || c.Owned != 0 {
			t.Errorf("with a store that was wiped: %+v", c)
		}
		if err := m1.Cluster().Restore(w.t.Context()); err != nil {
			t.Error(err)
		}
		w.pass(time.Minute)
		if c := m1.Cluster().Status(); c.Store.Error != "" || c.Owned != 3 {
			t.Errorf("with a store that was restored: %+v", c)
		}
		w.reached("with a store that was restored", services)
		m1.Stop()
	})
}

// TestManagersStopped: a manager that is stopped at whatever moment has nothing to complain of.
func TestManagersStopped(t *testing.T) {
	withManagers(t, func(w *managersWorld, services []descriptor.Address) {
		for after := time.Duration(0); after < 3*time.Second; after += 100 * time.Millisecond {
			m := w.start("m1", "")
			m.client.Set(func(f *clustertest.Faults) { f.Slow = 250 * time.Millisecond })
			time.Sleep(after)
			m.Stop()
			if strings.Contains(m.log.String(), "level=ERROR") {
				t.Errorf("stopped after %v:\n%s", after, m.log)
			}
		}
	})
}
