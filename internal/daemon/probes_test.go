package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

const probeTable = "[check]\nprobe = true\ninterval = \"30s\"\n"

// settle lets time pass.
func settle(d time.Duration) { time.Sleep(d); synctest.Wait() }

// TestProbeAddress publishes probe addresses, beside the services and not as one of
// them, the same after a restart, and as long as the configuration asks for them.
func TestProbeAddress(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		with := parse(t, dir, torTable+probeTable+service("a", one, two)+service("b", one))
		without := parse(t, dir, torTable+service("a", one, two)+service("b", one))
		var first descriptor.Address
		reaches := func(a descriptor.Address, key *descriptor.ClientKey) bool {
			for range 10 {
				if r := net.NewClient(a, sim.ClientConfig{Key: key}).Request(); r.Instance != one {
					return false
				}
			}
			return true
		}
		onSim(t, net, with, func(d *Daemon) {
			settle(time.Minute)
			address, key, published := d.probes.Of(one.Address())
			if first = address; !published || address == (descriptor.Address{}) || !reaches(address, key) {
				t.Errorf("the probe address of the first instance: published is %t, or it does not lead there", published)
			}
			if reaches(address, nil) {
				t.Error("anybody can read the probe address")
			}
			if other, _, _ := d.probes.Of(two.Address()); other == address || len(d.probes.list) != 2 {
				t.Errorf("%d probe addresses of two instances", len(d.probes.list))
			}
			s := d.Snapshot()
			if len(s.Services) != 2 {
				t.Errorf("%d services", len(s.Services))
			}
			for _, service := range s.Services {
				if i := service.Instances[0]; i.Probe != first.String() || !i.ProbePublished || len(service.Instances) < 2 && len(service.Instances) != 1 {
					t.Errorf("status of %s: %+v", i.Name, i)
				}
			}
			d.events.flush(t.Context(), d.store)
			history, err := d.store.Events(1000, nil)
			if err != nil || len(history) == 0 {
				t.Fatalf("%d events, %v", len(history), err)
			}
			for _, e := range history {
				if strings.Contains(string(e), first.Label()) || strings.Contains(string(e), `"services":3`) {
					t.Errorf("the history has %s", e)
				}
			}
			if err := d.Reload(without); err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
			if address, _, _ := d.probes.Of(one.Address()); address != (descriptor.Address{}) || d.Snapshot().Services[0].Instances[0].Probe != "" {
				t.Error("a probe address that nobody asks for")
			}
			settle(4 * time.Hour)
			if reaches(first, key) {
				t.Error("it is still published")
			}
			if err := d.Reload(without); err != nil || len(d.probes.leaving) > 0 {
				t.Errorf("%d that have ended are kept, %v", len(d.probes.leaving), err)
			}
			for range 2 { // a reload that changes nothing keeps it
				if err := d.Reload(with); err != nil {
					t.Fatal(err)
				}
				settle(time.Minute)
				if address, key, published := d.probes.Of(one.Address()); address != first || !published || !reaches(address, key) {
					t.Errorf("asked for again: published is %t, or another one", published)
				}
			}
		})
		onSim(t, net, with, func(d *Daemon) {
			settle(time.Minute)
			if address, key, published := d.probes.Of(one.Address()); address != first || !published || !reaches(address, key) {
				t.Errorf("after a restart: published is %t, or another one", published)
			}
		})
	})
}

// probeVisitor answers at public addresses, and at probe addresses as a test says.
type probeVisitor struct {
	public descriptor.Address

	mu     sync.Mutex
	answer bool // at probe addresses
	visits int  // of them
	keys   int  // with a client key
}

func (v *probeVisitor) Visit(_ context.Context, spec health.Spec, key *descriptor.ClientKey) health.Result {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := health.Result{Began: time.Now(), Ended: time.Now(), Stage: health.Connected}
	if spec.Address == v.public {
		return r
	}
	v.visits++
	if key != nil {
		v.keys++
	}
	point := health.PointResult{Relay: descriptor.Fingerprint{byte(v.visits)}, Acknowledged: true, Answered: v.answer}
	if r.Points = append(r.Points, point); !v.answer {
		r.Stage, r.Err = health.Introduced, errors.New("no answer")
	}
	return r
}

// count returns how many visits there were, and how many with a client key.
func (v *probeVisitor) count() (visits, keys int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.visits, v.keys
}

func (v *probeVisitor) set(answer bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answer = answer
}

// A probe address without its line is only mentioned, with the line, until it has
// answered once. An instance whose line goes away then is out.
func TestProbeVisits(t *testing.T) {
	dir := t.TempDir()
	public := writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		v := &probeVisitor{public: public}
		prepare := func(d *Daemon) {
			d.visitor = v
			d.checked = func(descriptor.Address) health.Result {
				return health.Result{Began: time.Now(), Ended: time.Now(), Stage: health.Connected}
			}
		}
		cfg := parse(t, dir, torTable+service("a", one)+
			fmt.Sprintf("[service.instance.check]\nprobe = true\n[[service.instance]]\nname = \"web2\"\naddress = %q\n", two.Address()))
		onPrepared(t, net, cfg, prepare, func(d *Daemon) {
			web := func() status.Instance { return d.Snapshot().Services[0].Instances[0] }
			settle(30 * time.Minute)
			probe, _, _ := d.probes.Of(one.Address())
			line := "MasterOnionAddress " + probe.String()
			if i := web(); i.Published == 0 || i.Path != "" || !strings.Contains(strings.Join(i.Warnings, "\n"), line) {
				t.Errorf("without its line: %d points, %q, %q", i.Published, i.Path, i.Warnings)
			}
			if visits, keys := v.count(); visits < 4 || keys != visits {
				t.Errorf("%d visits, %d of them with a key", visits, keys)
			}
			v.set(true)
			settle(30 * time.Minute)
			if i := web(); i.Published == 0 || i.Path != "" || len(i.Warnings) > 0 {
				t.Errorf("with its line: %d points, %q, %q", i.Published, i.Path, i.Warnings)
			}
			before, _ := v.count()
			settle(time.Hour)
			if after, _ := v.count(); after-before < 10 || after-before > 14 {
				t.Errorf("%d visits in an hour, want about 12", after-before)
			}
			v.set(false)
			settle(20 * time.Minute)
			if i := web(); i.Published != 0 || !strings.HasSuffix(i.Path, line) {
				t.Errorf("when its line is gone: %d points, %q, %q", i.Published, i.Path, i.Warnings)
			}
			v.set(true)
			settle(20 * time.Minute)
			if i := web(); i.Published == 0 || i.Path != "" {
				t.Errorf("with its line again: %d points, %q, %q", i.Published, i.Path, i.Warnings)
			}
		})
	})
}

// An address that cannot be stored would be another one after a restart: there is none
// then, and status says why.
func TestNoProbeWithoutStore(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, "state_dir = \"state\"\n"+torTable+probeTable+service("a", one))
		blocked := filepath.Join(cfg.StateDir, state.File) // root may write anywhere, but not into a directory
		if err := os.MkdirAll(blocked, 0o700); err != nil {
			t.Fatal(err)
		}
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			address, _, published := d.probes.Of(one.Address())
			if said := strings.Join(d.Snapshot().Warnings, "\n"); address != (descriptor.Address{}) || published || !strings.Contains(said, "instance web1 has no probe address: ") {
				t.Errorf("published is %t, warnings %q", published, said)
			}
			if err := os.Remove(blocked); err != nil {
				t.Fatal(err)
			}
			settle(10 * time.Minute)
			if _, _, published := d.probes.Of(one.Address()); !published {
				t.Errorf("with a disk again: %q", d.Snapshot().Warnings)
			}
		})
	})
}

// check says which line each ob_config needs, and that there is none yet before balancer
// ran.
func TestCheckProbes(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, "state_dir = \"state\"\n"+torTable+probeTable+service("a", one))
		check := func() string {
			services, err := buildAll(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			var found findings
			for _, s := range services {
				(&checker{cfg: cfg, tell: found.tell}).checkProbes(shortName(s), s, nil)
			}
			return found.String()
		}
		if said := check(); !strings.Contains(said, "warning probe address of ") || !strings.Contains(said, "start balancer") {
			t.Errorf("before: %s", said)
		}
		var address descriptor.Address
		onSim(t, net, cfg, func(d *Daemon) {
			settle(time.Minute)
			address, _, _ = d.probes.Of(one.Address())
		})
		if said := check(); !strings.Contains(said, "ok probe address of ") || !strings.Contains(said, "MasterOnionAddress "+address.String()+" -> ") || !strings.Contains(said, "restart") {
			t.Errorf("after: %s", said)
		}
	})
}
