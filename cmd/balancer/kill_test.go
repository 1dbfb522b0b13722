package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/sim"
)

// killed is a simulated network, in real time, with a balancer that is killed.
type killed struct {
	t       *testing.T
	net     *sim.Network
	dir     string
	address descriptor.Address
}

// serve has the network's tor answer on a socket.
func (k *killed) serve(path string) {
	l, err := net.Listen("unix", path)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { l.Close() })
	go k.net.Tor().Serve(l)
}

// run starts a balancer, and kills it when done says so.
func (k *killed) run(when string, done func() bool) {
	k.t.Helper()
	cmd := exec.Command("balancer", "run", "--config", filepath.Join(k.dir, "balancer.toml"))
	cmd.Stderr = k.t.Output()
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Errorf("%s: nothing comes of it", when)
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// stored returns the counters that are in the store, and the highest that HSDirs
// hold, by period.
func (k *killed) stored() (ceilings, held map[descriptor.Period]uint64) {
	k.t.Helper()
	db, err := state.OpenReadOnly(filepath.Join(k.dir, "state"), slog.New(slog.NewTextHandler(k.t.Output(), nil)))
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	record, _, err := db.Service(k.address)
	if err != nil || db.Damage() != nil {
		k.t.Fatal(err, db.Damage())
	}
	ceilings, held = map[descriptor.Period]uint64{}, map[descriptor.Period]uint64{}
	for _, c := range record.Ceilings {
		p := descriptor.Period{Number: c.Period, Length: time.Duration(c.Minutes) * time.Minute}
		ceilings[p], held[p] = c.Counter, k.held(p)
	}
	return ceilings, held
}

// held returns the highest counter that HSDirs hold for a period.
func (k *killed) held(p descriptor.Period) (highest uint64) {
	keys, err := k.address.Keys(p)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, r := range k.net.Relays() {
		_, revision := r.Stored(keys.Blinded)
		highest = max(highest, revision)
	}
	return highest
}

// Killed as soon as an HSDir has what it published, with a counter far ahead of the
// clock, a balancer goes above that after its next start: no HSDir refuses it.
func TestKilledAfterPublishing(t *testing.T) {
	k := &killed{t: t, net: sim.New(sim.Config{Seed: 1, Latency: 20 * time.Millisecond}), dir: t.TempDir()}
	defer k.net.Close()
	instance := k.net.AddInstance(sim.InstanceConfig{Start: time.Millisecond})
	k.serve(filepath.Join(k.dir, "control"))
	out, err := exec.Command("balancer", "key", "new", filepath.Join(k.dir, "front")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var onion string
	if _, err := fmt.Sscanf(string(out), "address %s", &onion); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if k.address, err = descriptor.ParseAddress(onion); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("state_dir = \"state\"\n[tor]\ncontrol = \"unix:%s/control\"\n[[service]]\nkey = \"front\"\n[[service.instance]]\naddress = %q\n",
		k.dir, instance.Address())
	if err := os.WriteFile(filepath.Join(k.dir, "balancer.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	counts := k.net.Tor().Counts
	refuse := func(yes bool) {
		for _, r := range k.net.Relays() {
			r.SetFaults(sim.Faults{RejectUploads: yes})
		}
	}
	refuse(true) // as if they had a higher one: the next is minutes ahead
	k.run("the first life", func() bool {
		if counts().Rejected >= 16 {
			refuse(false)
		}
		return counts().Stored > 0
	})
	for life := range 3 {
		for c := counts(); c.Stored+c.Rejected < c.Posts; c = counts() { // what was in flight arrives
			time.Sleep(time.Millisecond)
		}
		ceilings, held := k.stored()
		if len(ceilings) != 2 {
			t.Fatalf("life %d: ceilings %v", life, ceilings)
		}
		for p, revision := range held {
			if revision > ceilings[p] {
				t.Errorf("life %d: HSDirs have counter %d, and the store only %d", life, revision, ceilings[p])
			}
		}
		rejected := counts().Rejected
		k.run("another life", func() bool {
			for p, revision := range ceilings {
				if k.held(p) <= revision {
					return counts().Rejected > rejected
				}
			}
			return true
		})
		if n := counts().Rejected - rejected; n > 0 {
			t.Errorf("life %d: HSDirs refused %d uploads", life, n)
		}
	}
}
