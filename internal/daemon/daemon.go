// Package daemon wires the parts together and runs them: the connection to tor
// (or a tor of our own), the consensus, the services and the status socket. It
// is the only package that knows them all.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/advice"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/check"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/config"
	"onionbalancer/internal/filelock"
	"onionbalancer/internal/health"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/keystore/token"
)

// Daemon is a running balancer, or one about to run.
type Daemon struct {
	version string
	log     *slog.Logger

	// Logs is the log that log writes to, if it can be changed while it is
	// written. It is set before Start, if at all.
	Logs Logs

	open      func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error)  // openTors, but in tests
	serve     func()                                                                  // serveStatus, but in tests
	engine    func(config.Cluster, clusterFiles, check.Dialer) (clusterEngine, error) // openEtcd, but in tests
	listen    func(network, address string) (net.Listener, error)                     // listenBeat, but in tests
	dialer    check.Dialer                                                            // nil, but in tests
	visitor   balance.Visitor
	checked   func(descriptor.Address) health.Result
	rooms     *Rooms
	store     *state.DB
	sharing   sharing
	shared    records // that the sharing has
	unshare   func()  // ends what the sharing does
	events    *Recorder
	env       balance.Env
	probes    *Probes
	countries *tor.Countries
	customers *customers
	shards    shardsCache
	started   time.Time
	unlock    func()      // releases state_dir
	fullNames atomic.Bool // log.full_addresses

	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup
	stop   sync.Once
	orders sync.Mutex // held while one of an operator's is carried out

	mu       sync.Mutex                            // guards what follows
	cfg      *config.Config                        // in force
	loaded   time.Time                             // when cfg was
	restart  []string                              // keys whose new values take effect after a restart
	initial  map[descriptor.Address]balance.Config // until Start
	hosted   map[string]*shard                     // until Start
	services map[descriptor.Address]*running
	leaving  map[descriptor.Address]*running // removed, and not at their end yet
	clients  map[descriptor.Address]*clients.Watch
	stopping bool  // no service is started any more
	trouble  error // services of the configuration that could not be opened
	reloads  []status.Event
}

// Logs is a log that runs as long as the daemon.
type Logs interface {
	Configure(cfg config.Log)
	Trouble() error // why lines are being lost now, nil if none are
}

// New opens the keys that cfg names and prepares everything, without touching
// the network. A service that cannot be opened is reported and left out; only
// when none can be is that an error.
//
// It is an error if others than root and this user can change files that decide about
// code, and an error of the service if they can change files that decide about its keys.
func New(cfg *config.Config, version string, log *slog.Logger) (*Daemon, error) {
	if err := refuseWritable(cfg, log); err != nil {
		return nil, err
	}
	services, trouble := buildAll(cfg, log)
	shards, failed := buildShards(cfg)
	trouble = errors.Join(trouble, failed)
	if len(services)+len(shards) == 0 && !cfg.Cluster.Watches() {
		return nil, fmt.Errorf("opening the services: %w", cmp.Or(trouble, errNoServices))
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		release(maps.Values(services), log)
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	token.RememberIn(cfg.StateDir)
	token.LogTo(log)
	d := &Daemon{
		version: version, log: log, open: openTors, engine: openEtcd, listen: listenBeat, cfg: cfg, loaded: time.Now(), initial: services, hosted: shards, trouble: trouble,
		services: map[descriptor.Address]*running{}, leaving: map[descriptor.Address]*running{},
		clients: map[descriptor.Address]*clients.Watch{},
	}
	d.fullNames.Store(cfg.Log.FullAddresses)
	d.serve = d.serveStatus
	d.events = NewRecorder(log, d.name)
	return d, nil
}

var errNoServices = errors.New("the configuration has none")

// Start begins work and returns at once, with an error only if it could not
// begin at all; then everything is closed again. Without one, Stop must be
// called afterwards.
func (d *Daemon) Start(ctx context.Context) error {
	d.started = time.Now()
	d.ctx, d.cancel = context.WithCancel(ctx)
	if d.trouble != nil {
		d.log.Error("services left out", "error", d.trouble)
	}
	tors, err := d.openAll()
	if err != nil {
		d.cancel()
		release(maps.Values(d.initial), d.log)
		return err
	}
	d.rooms = NewRooms(tors, d.dialer, d.store, state.Words{Records: d.shared}, d.events.Record, d.cfg.Tor.PublishRate)
	d.env = d.rooms.Env(d.store, d.events.Record)
	d.shared.Subscribe(state.OperatorPrefix, func(changed []state.Key) {
		d.rooms.backends.TakeWords(changed)
		d.shards.stale.Store(true)
	})
	d.rooms.Configure(d.cfg.Check)
	d.rooms.consensus.Families(families(d.cfg))
	d.countries = tor.NewCountries(poolSource{tors}.GetInfo, func() { d.wake(asksCountries) })
	d.env.Country, d.env.Advise = d.countries.Of, advice.Run
	if d.visitor != nil {
		d.env.Visitor, d.env.Checked = d.visitor, d.checked
	}
	own := d.env // for addresses that no other manager has
	d.sharing.environ(&d.env)
	d.probes = newProbes(d.ctx, own, d.store, func(instance descriptor.Address) {
		d.wake(func(s balance.Config) bool {
			return slices.ContainsFunc(s.Instances, func(i balance.Instance) bool { return i.Address == instance })
		})
	})
	d.env.Probe = d.probes.path
	d.wait.Go(func() { d.rooms.Run(d.ctx, d.moved) })
	d.wait.Go(func() { d.events.Run(d.ctx, d.store) })
	d.wait.Go(func() { d.countries.Run(d.ctx) })
	d.wait.Go(func() { ReturnMemory(d.ctx) })
	d.wait.Go(func() { d.tellShards(d.ctx) })
	d.mu.Lock()
	for address, cfg := range d.initial {
		d.runLocked(address, cfg)
	}
	d.initial = nil
	d.mu.Unlock()
	d.startCustomers()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updateProbesLocked()
	d.wait.Go(d.serve)
	d.wait.Go(d.followClients)
	d.unshare = background(d.ctx, d.sharing.run)
	return nil
}

// startCustomers starts the services of the shards' customers.
func (d *Daemon) startCustomers() {
	h := d.customers
	if err := h.configure(d.ctx, d.hosted); err != nil {
		d.log.Error("customers may be left out", "error", err)
	}
	d.mu.Lock()
	h.replaceLocked(d.hosted)
	d.hosted = nil
	d.mu.Unlock()
	h.update(d.ctx, h.registry.All())
	d.wait.Go(func() { h.run(d.ctx) })
}

// openAll locks the state directory and opens the store, the tors, and what the services are
// shared by.
func (d *Daemon) openAll() (tors *tor.Pool, err error) {
	if d.unlock, err = lockState(d.cfg.StateDir); err != nil {
		return nil, err
	}
	if d.store, err = state.Open(d.cfg.StateDir, state.Options{Log: d.log}); err != nil {
		d.unlock()
		return nil, err
	}
	if tors, err = d.open(d.ctx, d.cfg, d.log); err == nil {
		if err = d.openShared(tors); err != nil {
			tors.Close()
		}
	}
	if err != nil {
		err = errors.Join(err, d.store.Close())
		d.unlock()
	}
	return tors, err
}

// openShared opens what the services are shared by, and the customers.
func (d *Daemon) openShared(tors *tor.Pool) (err error) {
	if d.sharing, err = d.openSharing(cmp.Or[check.Dialer](d.dialer, tors)); err != nil {
		return err
	}
	d.shared = d.sharing.records()
	if d.customers, err = openCustomers(d); err != nil {
		d.sharing.close()
	}
	return err
}

// moved tells all services that other tors may upload for them now.
func (d *Daemon) moved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.services {
		r.Moved()
	}
	d.probes.Moved()
}

// wake has the services plan that are concerned.
func (d *Daemon) wake(concerned func(balance.Config) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.services {
		if concerned(r.cfg) {
			r.Wake()
		}
	}
}

// serveStatus answers on the status socket. Balancing continues if it cannot.
func (d *Daemon) serveStatus() {
	d.mu.Lock() // for a reload may come first
	path := filepath.Join(d.cfg.StateDir, status.SocketName)
	d.mu.Unlock()
	if err := status.Serve(d.ctx, path, d.log, d.Snapshot, d, api.Handler(d.customers)); err != nil {
		d.log.Error("\"balancer status\" will not work", "error", err)
	}
}

// stopTimeout bounds Stop: a disk or a token that hangs until then is abandoned.
const stopTimeout = 30 * time.Second

// Stop ends everything that Start began and waits for it. Published descriptors stay
// on the HSDirs. It may be called more than once.
func (d *Daemon) Stop() {
	d.stop.Do(func() {
		if d.rooms == nil {
			return // nothing was started
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.stopAll()
		}()
		select {
		case <-done:
		case <-time.After(stopTimeout):
			d.log.Error("not everything has stopped in time, exiting anyway", "after", stopTimeout)
		}
	})
}

func (d *Daemon) stopAll() {
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	d.unshare()
	d.sharing.leave()
	d.mu.Lock()
	services := slices.Collect(maps.Values(d.services))
	clear(d.services)
	d.mu.Unlock()
	for _, r := range services {
		r.end(&d.wait)
	}
	for _, r := range services {
		<-r.done
	}
	d.probes.Stop()
	d.rooms.Close()
	d.cancel()
	d.wait.Wait()
	d.sharing.close()
	d.rooms.tors.Close()
	if err := d.store.Close(); err != nil {
		d.log.Error("closing the state", "error", err)
	}
	d.unlock()
}

// lockFile is held while a daemon runs, inside state_dir.
const lockFile = "lock"

// lockState locks state_dir for this process: two balancers that publish the
// same address would overtake each other's revision counters for ever. The
// kernel releases the lock when the process ends, however it ends. A
// directory that cannot be written is not an error: the consequences are reported
// where they show.
func lockState(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}, nil
	}
	if err := filelock.TryLock(f); err != nil {
		f.Close()
		if errors.Is(err, filelock.ErrLocked) {
			return nil, fmt.Errorf("another balancer is running with state_dir %s: stop it, or give this one a state_dir of its own", dir)
		}
		return func() {}, nil
	}
	return func() { f.Close() }, nil
}
