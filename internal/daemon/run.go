package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
)

// running is a service of the daemon. While its turn is another manager's it is not started:
// it takes new configurations and publishes nothing. One that was stopped has another running
// in its place, which can be started again.
//
// All but the Service is protected by Daemon.mu.
type running struct {
	*balance.Service
	shard  string         // of a customer's; empty for a service of the configuration
	of     *shard         // that cfg is by, for a customer's
	ref    string         // of its keys, for a customer's
	cfg    balance.Config // handed over last, with the keys themselves
	keys   *sharedKeys    // cfg.Keys
	loan   credential.Keys
	cancel context.CancelFunc // nil: it was not started
	done   chan struct{}      // closed when it has ended
}

func newRunning(cfg balance.Config, keys *sharedKeys, env balance.Env) *running {
	r := &running{cfg: cfg, keys: keys, loan: keys.lend(), done: make(chan struct{})}
	cfg.Keys = r.loan
	r.Service = balance.NewService(cfg, env)
	if !cfg.Hosted { // else there are thousands with the same instances
		r.Watch()
	}
	return r
}

// Reconfigure takes a new configuration, for the same address, and owns its keys.
func (r *running) Reconfigure(cfg balance.Config) {
	if cfg.Keys.Custodian != r.cfg.Keys.Custodian || cfg.Keys.Signing != r.cfg.Keys.Signing {
		before, loan := r.keys, r.loan
		if r.cancel != nil { // the service gives it back when it needs it no more
			loan = credential.Keys{}
		}
		r.keys = &sharedKeys{keys: cfg.Keys, users: 1}
		r.loan = r.keys.lend()
		defer func() { go before.giveUp(loan) }() // keys that hang may take a while to close
	}
	r.cfg = cfg
	cfg.Keys = r.loan
	r.Service.Reconfigure(cfg)
}

func giveBack(loan credential.Keys) { _ = loan.Release() }

// end stops the service and gives its keys up, without waiting but in wait: keys that hang may
// take a while to close.
func (r *running) end(wait *sync.WaitGroup) {
	started, loan := r.cancel != nil, credential.Keys{}
	if started {
		r.cancel()
	} else {
		loan = r.loan
	}
	wait.Go(func() {
		if !started {
			defer close(r.done)
			r.Unwatch()
		}
		r.keys.giveUp(loan)
	})
}

// sharedKeys are the keys of one service after another. The last user closes them.
type sharedKeys struct {
	keys credential.Keys

	mu    sync.Mutex
	users int
}

// lend returns the keys for a service, whose closing them says that it uses them no more.
func (k *sharedKeys) lend() credential.Keys {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.users++
	loan := k.keys
	loan.Release = sync.OnceValue(k.release)
	return loan
}

func (k *sharedKeys) release() error {
	k.mu.Lock()
	k.users--
	last := k.users == 0
	k.mu.Unlock()
	if !last {
		return nil
	}
	return k.keys.Close()
}

// giveUp is the end of the use of keys by a running, and by its service if that has a loan.
func (k *sharedKeys) giveUp(loan credential.Keys) {
	if loan.Release != nil {
		giveBack(loan)
	}
	_ = k.release()
}

// runLocked adds a service, and starts it if it is this manager's turn to publish it.
func (d *Daemon) runLocked(address descriptor.Address, cfg balance.Config) *running {
	r := newRunning(cfg, &sharedKeys{keys: cfg.Keys, users: 1}, d.envOf(address))
	d.services[address] = r
	if d.sharing.publishes(address) {
		d.startLocked(r)
	}
	d.followLocked(address, cfg.ClientsDir)
	d.sharing.changed()
	return r
}

// envOf returns the environment of a service.
func (d *Daemon) envOf(a descriptor.Address) balance.Env {
	env := d.env
	env.Awake = d.sharing.awake(a)
	return env
}

// startLocked starts a service, after a stopping one of the same address has ended.
func (d *Daemon) startLocked(r *running) {
	ctx, cancel := context.WithCancel(d.ctx)
	r.cancel = cancel
	before := d.leaving[r.Address()]
	go func() {
		defer close(r.done)
		if before != nil {
			<-before.done
		}
		r.Run(ctx)
	}()
}

// removeLocked removes a service, and stops it without waiting.
func (d *Daemon) removeLocked(address descriptor.Address) {
	r := d.services[address]
	r.end(&d.wait)
	delete(d.services, address)
	delete(d.clients, address)
	d.leaving[address] = r
	d.wait.Go(func() {
		<-r.done
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.leaving[address] == r {
			delete(d.leaving, address)
		}
	})
	d.sharing.changed()
}

var (
	errNotConfigured = errors.New("the configuration does not have it any more")
	errStopping      = fmt.Errorf("this manager is being stopped: %w", context.Canceled)
)

// begin starts services whose turn has come, and returns the errors of those that it cannot.
func (d *Daemon) begin(list []descriptor.Address) map[descriptor.Address]error {
	failed := map[descriptor.Address]error{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range list {
		switch r := d.services[a]; {
		case d.stopping:
			failed[a] = errStopping
		case r == nil:
			failed[a] = errNotConfigured
		case r.cancel == nil:
			d.startLocked(r)
		}
	}
	return failed
}

// cease stops services whose turn is over, removed ones among them, and waits for their end:
// nothing is uploaded for them any more.
func (d *Daemon) cease(list []descriptor.Address) {
	var ending []*running
	d.mu.Lock()
	for _, a := range list {
		if r := d.services[a]; r != nil && r.cancel != nil {
			r.cancel()
			next := newRunning(r.cfg, r.keys, d.envOf(a))
			next.shard, next.of, next.ref = r.shard, r.of, r.ref
			d.services[a] = next
			ending = append(ending, r)
		} else if r := d.leaving[a]; r != nil {
			ending = append(ending, r)
		}
	}
	d.mu.Unlock()
	for _, r := range ending {
		<-r.done
	}
}
