package daemon

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	var a [5]descriptor.Address
	for n := range a {
		a[n] = writeKey(t, filepath.Join(dir, string(rune('a'+n))), byte(n+1))
	}
	front, back, one, two, three := a[0], a[1], a[2], a[3], a[4]
	all := []member{
		{front, "", "web1", one}, {front, "", "web2", two}, {back, "", "web1", one}, {back, "", "db", three}, {back, "", "web2", three},
		{descriptor.Address{}, "s1", "web1", one}, {descriptor.Address{}, "s1", "web2", two}, {descriptor.Address{}, "s2", "sole", two},
	}
	for _, test := range []struct {
		instance, service string
		want              descriptor.Address
		status            int
		says              string
	}{
		{"web1", "", one, 0, ""},
		{"db", "", three, 0, ""},
		{three.String(), "", three, 0, ""},
		{strings.ToUpper(two.Label()), "", two, 0, ""},
		{"web2", front.String(), two, 0, ""},
		{"web2", back.Label(), three, 0, ""},
		{"web2", "", two, http.StatusConflict, "pick one with --service ADDRESS"},
		{"web2", "s1", two, 0, ""},
		{"sole", "", two, 0, ""},
		{"web2", "", two, http.StatusConflict, two.String() + " of shard s1"},
		{"web3", "", one, http.StatusNotFound, `there is no instance "web3", but db, sole, web1, web2`},
		{"db", "s1", one, http.StatusNotFound, "but web1, web2"},
		{"db", front.String(), one, http.StatusNotFound, "but web1, web2"},
		{front.String(), "", one, http.StatusNotFound, "there is no instance"},
		{"", "", one, http.StatusNotFound, "there is no instance"},
		{"web1", one.String(), one, http.StatusNotFound, "there is no service"},
		{"web1", "front", one, http.StatusBadRequest, "no shard is called so"},
	} {
		got, err := find(all, test.instance, test.service)
		refused := (*status.RefusedError)(nil)
		switch {
		case test.status == 0 && (err != nil || got != test.want):
			t.Errorf("%q of %q: %v, %v; want %v", test.instance, test.service, got, err, test.want)
		case test.status != 0 && (!errors.As(err, &refused) || refused.Status != test.status || !strings.Contains(refused.Reason, test.says)):
			t.Errorf("%q of %q: %v, want %d with %q", test.instance, test.service, err, test.status, test.says)
		}
	}
}

func TestIsLast(t *testing.T) {
	address := writeKey(t, t.TempDir(), 1)
	up := func() status.Instance { return status.Instance{State: status.StateOK, Weight: 1} }
	with := func(change func(*status.Instance)) status.Instance {
		i := up()
		change(&i)
		return i
	}
	failing := with(func(i *status.Instance) { i.Check = &status.Check{Operating: string(health.Down)} })
	unreached := with(func(i *status.Instance) { i.Path = "no line in its ob_config" })
	out := with(func(i *status.Instance) { i.Drain = &status.Drain{} })
	down := with(func(i *status.Instance) { i.State = status.StateUnknown })
	starting := with(func(i *status.Instance) { i.State = status.StateStarting })
	light := with(func(i *status.Instance) { i.Weight = 0 })
	for _, test := range []struct {
		what   string
		target status.Instance
		others []status.Instance
		want   bool
	}{
		{"another is in service", up(), []status.Instance{down, up()}, false},
		{"alone", up(), nil, true},
		{"the others are drained, down, starting or of weight 0", up(), []status.Instance{out, down, starting, light}, true},
		{"the other fails its checks", up(), []status.Instance{failing, unreached}, true},
		{"it fails its checks", failing, nil, false},
		{"it may be about to be the only one", starting, []status.Instance{starting}, true},
		{"it is out", out, []status.Instance{down}, false},
		{"it is down", down, []status.Instance{down}, false},
	} {
		test.target.Address = address.String()
		if got := isLast(append(test.others, test.target), address); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
	}
}

// An instance that fell twice is held down, until the operator says that it is sound.
func TestReadyEndsHold(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+"[check]\ninterval = \"2s\"\n"+service("a", one, two)), func(d *Daemon) {
			published := func() int {
				synctest.Wait()
				answer, err := d.InstanceStatus("web1", "")
				if err != nil {
					t.Fatal(err)
				}
				return answer.Uses[0].Instance.Published
			}
			time.Sleep(time.Minute)
			for range 2 {
				one.SetFrozen(true)
				time.Sleep(time.Minute)
				if published() != 0 {
					t.Error("a frozen instance is published")
				}
				one.SetFrozen(false)
				time.Sleep(time.Minute)
			}
			if published() != 0 {
				t.Error("it fell twice, and is published at once")
			}
			if _, err := d.Operate(t.Context(), status.Order{Word: "ready", Instance: "web1"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if published() == 0 {
				t.Error("the operator said that it is ready, and it is not published")
			}
		})
	})
}

// TestLoadOrders: a load is taken for a while, for all services that use the instance,
// and not kept over a restart.
func TestLoadOrders(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	b := writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		cfg := parse(t, dir, torTable+strings.Replace(service("a", one, two), "[[service]]\n", "[[service]]\nstrategy = \"least-loaded\"\n", 1)+service("b", one, two))
		onSim(t, net, cfg, func(d *Daemon) {
			time.Sleep(time.Minute)
			synctest.Wait()
			answer, err := d.Operate(t.Context(), status.Order{Word: "load", Instance: "web1", Load: "1.5"})
			if err != nil || len(answer.Uses) != 2 || len(answer.Notes) != 1 || !strings.Contains(answer.Notes[0], `"spread" of `+b.String()+" takes no notice of loads") {
				t.Fatalf("%+v, %v", answer, err)
			}
			load := func() *status.Load {
				t.Helper()
				now, err := d.InstanceStatus("web1", "")
				if err != nil || now.Admin != "ready" || now.Weight != "default" {
					t.Errorf("%+v, %v", now, err)
				}
				if a, b := now.Uses[0].Instance.Load, now.Uses[1].Instance.Load; (a == nil) != (b == nil) || a != nil && *a != *b {
					t.Errorf("for one service %v, for the other %v", a, b)
				}
				return now.Uses[0].Instance.Load
			}
			if l := load(); l == nil || l.Value != 1.5 || time.Until(l.Until) != health.LoadKept {
				t.Errorf("load %+v", l)
			}
			if time.Sleep(health.LoadKept); load() != nil {
				t.Errorf("later it is %+v", load())
			}
			for _, o := range []status.Order{{Load: "2", Seconds: 7200}, {Load: "0"}, {Load: "-"}} {
				o.Word, o.Instance = "load", "web1"
				if _, err := d.Operate(t.Context(), o); err != nil || (load() == nil) != (o.Load == "-") {
					t.Errorf("%+v: %v, load %+v", o, err, load())
				}
				time.Sleep(time.Minute)
			}
			for _, o := range []status.Order{
				{Word: "load"}, {Word: "load", Load: "-1"}, {Word: "load", Load: "NaN"}, {Word: "load", Load: "1", Seconds: -1}, {Word: "load", Load: "1", Seconds: 1e9},
				{Word: "load", Load: "1", Seconds: 1e300}, {Word: "load", Load: "1", Weight: "1"}, {Word: "load", Load: "1", Force: true},
				{Word: "drain", Load: "1"}, {Word: "weight", Weight: "1", Seconds: 1},
			} {
				o.Instance = "web1"
				refused := (*status.RefusedError)(nil)
				if _, err := d.Operate(t.Context(), o); !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || load() != nil {
					t.Errorf("%+v: %v, load %+v", o, err, load())
				}
			}
			if _, err := d.Operate(t.Context(), status.Order{Word: "load", Instance: "web1", Load: "1"}); err != nil {
				t.Error(err)
			}
		})
		onSim(t, net, cfg, func(d *Daemon) {
			time.Sleep(time.Minute)
			synctest.Wait()
			if now, err := d.InstanceStatus("web1", ""); err != nil || now.Uses[0].Instance.Load != nil {
				t.Errorf("after a restart: %+v, %v", now, err)
			}
		})
	})
}

// The operator's orders on a running daemon, with an instance that two services use.
func TestOrders(t *testing.T) {
	dir := t.TempDir()
	a, b := writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, torTable+service("a", one, two)+strings.Replace(service("b", one, two), "[[service]]\n", "[[service]]\nstrategy = \"random\"\n", 1))
		onSim(t, net, cfg, func(d *Daemon) {
			pass := func() { time.Sleep(time.Minute); synctest.Wait() }
			order := func(o status.Order) (status.Answer, string) {
				t.Helper()
				answer, err := d.Operate(t.Context(), o)
				pass()
				if err != nil {
					return answer, err.Error()
				}
				return answer, strings.Join(answer.Notes, "; ")
			}
			pass()
			answer, said := order(status.Order{Word: "drain", Instance: "web1"})
			if answer.Address != one.Address().String() || answer.Admin != "drain" || len(answer.Uses) != 2 || !strings.Contains(said, `2 services use it: it is "drain" for all of them`) {
				t.Fatalf("drain: %+v, %s", answer, said)
			}
			now, err := d.InstanceStatus("web1", b.String())
			if err != nil || now.Admin != "drain" || len(now.Uses) != 2 || now.Uses[0].Instance.Drain.Left.IsZero() || now.Uses[1].Instance.Drain.Left.IsZero() {
				t.Errorf("a minute later: %+v, %v", now, err)
			}
			if _, said = order(status.Order{Word: "maint", Instance: "web2"}); !strings.Contains(said, "web2 is the last instance of ") || !strings.Contains(said, " and 1 more in service; --force") {
				t.Errorf("the last one: %s", said)
			}
			if _, said = order(status.Order{Word: "weight", Instance: "web2", Weight: "0%"}); !strings.Contains(said, "web2 is the last instance of ") {
				t.Errorf("the last one, by its weight: %s", said)
			}
			if answer, said = order(status.Order{Word: "maint", Instance: "web1"}); answer.Admin != "maint" {
				t.Errorf("drained, then maint: %+v, %s", answer, said)
			}
			if answer, said = order(status.Order{Word: "weight", Instance: "web1", Weight: "50%"}); answer.Weight != "50%" ||
				!strings.Contains(said, `all the same: it is "maint"`) || !strings.Contains(said, `the strategy "random" of `+b.String()) {
				t.Errorf("a weight: %+v, %s", answer, said)
			}
			if answer, said = order(status.Order{Word: "ready", Instance: "web1"}); answer.Admin != "ready" || answer.Weight != "50%" {
				t.Errorf("ready: %+v, %s", answer, said)
			}
			if _, said = order(status.Order{Word: "weight", Instance: "web1", Weight: "300"}); !strings.Contains(said, "from 0 to 256") {
				t.Errorf("no weight: %s", said)
			}
			if _, said = order(status.Order{Word: "drain", Instance: "web1", Weight: "3"}); !strings.Contains(said, `alone, not with "drain"`) {
				t.Errorf("a weight too many: %s", said)
			}
			order(status.Order{Word: "drain", Instance: "web1"})
			if answer, said = order(status.Order{Word: "drain", Instance: "web2", Force: true}); answer.Admin != "drain" || !strings.Contains(said, "stay published until one is") {
				t.Errorf("the last one by force: %+v, %s", answer, said)
			}
			if r := net.NewClient(a, sim.ClientConfig{}).Request(); r.Err != nil || r.Instance != two {
				t.Errorf("a request when all are drained: %+v", r)
			}
		})
		// Another daemon, of the same state directory.
		onSim(t, net, cfg, func(d *Daemon) {
			time.Sleep(time.Minute)
			synctest.Wait()
			if now, err := d.InstanceStatus("web1", ""); err != nil || now.Admin != "drain" || now.Weight != "50%" || now.Since.IsZero() {
				t.Errorf("after a restart: %+v, %v", now, err)
			}
		})
	})
}
