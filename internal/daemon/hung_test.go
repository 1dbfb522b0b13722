package daemon

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/testnet/sim"
)

// hungKeys are a custodian and signing keys whose calls return when they are
// released, whatever their contexts say.
type hungKeys struct {
	address  descriptor.Address
	released chan struct{}
	closed   atomic.Int32
}

var errHung = errors.New("it hung")

func (h *hungKeys) Address() descriptor.Address { return h.address }

func (h *hungKeys) Certify(context.Context, descriptor.Period, ed25519.PublicKey, descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	<-h.released
	return descriptor.HourlyCertificates{}, errHung
}

func (h *hungKeys) RevisionKey(context.Context, descriptor.Period) (descriptor.RevisionKey, error) {
	<-h.released
	return descriptor.RevisionKey{}, errHung
}

func (h *hungKeys) SigningKey(context.Context, descriptor.Period) (crypto.Signer, error) {
	<-h.released
	return nil, errHung
}

func (h *hungKeys) Retire(context.Context, []descriptor.Period) error {
	<-h.released
	return errHung
}

func (h *hungKeys) Close() error {
	<-h.released
	h.closed.Add(1)
	return nil
}

// A service whose keys hang, even as they are closed, holds up neither a reload
// that removes it, nor the status, nor the service that comes in its place, nor,
// for long, the end.
func TestHungService(t *testing.T) {
	dir := t.TempDir()
	a, b := writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		hung := &hungKeys{address: b, released: make(chan struct{})}
		cfg := parse(t, dir, torTable+service("a", one))
		var stopped time.Time
		onSim(t, net, cfg, func(d *Daemon) {
			began := time.Now()
			atOnce := func(what string) {
				t.Helper()
				if took := time.Since(began); took > 0 {
					t.Errorf("%s took %v", what, took)
				}
				began = time.Now()
			}
			built, err := build(cfg, cfg.Services[0], strictmodes.Current())
			if err != nil {
				t.Fatal(err)
			}
			if err := built.Keys.Custodian.Close(); err != nil {
				t.Fatal(err)
			}
			built.Keys.Custodian, built.Keys.Signing = hung, hung
			start := func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.runLocked(b, built)
			}
			start()
			time.Sleep(50 * time.Second) // at a minute the keys' time is up
			if got := states(d.Snapshot()); !strings.Contains(got, a.String()[:4]+" ok") || !strings.Contains(got, b.String()[:4]+" starting") {
				t.Errorf("beside a service that hangs: %s", got)
			}
			began = time.Now()
			if err := d.Reload(parse(t, dir, torTable+service("a", one))); err != nil {
				t.Error(err)
			}
			atOnce("removing it")
			if got := states(d.Snapshot()); got != a.String()[:4]+" ok 1" {
				t.Errorf("when it is removed: %s", got)
			}
			if err := d.Reload(parse(t, dir, torTable+service("a", one)+service("b", one))); err != nil {
				t.Error(err)
			}
			atOnce("putting another in its place")
			time.Sleep(time.Minute)
			if got := states(d.Snapshot()); !strings.Contains(got, b.String()[:4]+" ok 1") {
				t.Errorf("another in its place: %s", got)
			}
			built.Keys.Reference = "hung"
			d.services[b].Reconfigure(built)
			time.Sleep(time.Minute)
			if got := states(d.Snapshot()); !strings.Contains(got, b.String()[:4]+" degraded 1") {
				t.Errorf("with other keys, which hang: %s", got)
			}
			stopped = time.Now()
		})
		if took := time.Since(stopped); took > 20*time.Second {
			t.Errorf("stopping took %v", took)
		}
		close(hung.released)
		synctest.Wait()
		if n := hung.closed.Load(); n != 2 {
			t.Errorf("closed %d times, want once by each service", n)
		}
	})
}

// Keys that hang as they are closed do not hold up the reload that replaces them, be it of
// a service that another manager publishes.
func TestHungKeysReplaced(t *testing.T) {
	dir := t.TempDir()
	b := writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, _ *sim.Network) {
		hung := &hungKeys{address: b, released: make(chan struct{})}
		keys := credential.Keys{Custodian: hung, Signing: hung}
		r := newRunning(balance.Config{Keys: keys, Hosted: true}, &sharedKeys{keys: keys, users: 1}, balance.Env{})
		other := &hungKeys{address: b, released: hung.released}
		began := time.Now()
		r.Reconfigure(balance.Config{Keys: credential.Keys{Custodian: other, Signing: other}, Hosted: true})
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
		r.end(new(sync.WaitGroup))
		close(hung.released)
		<-r.done
		synctest.Wait()
		if a, b := hung.closed.Load(), other.closed.Load(); a != 1 || b != 1 {
			t.Errorf("closed %d and %d times", a, b)
		}
	})
}
