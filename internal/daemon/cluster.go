package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/check"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
)

// members is the sharing of a manager that is one of several: package cluster decides which
// of them publishes a service, and the store that they share has the records.
type members struct {
	d       *Daemon
	name    string // of the cluster
	hold    bool   // to publish nothing new while the store does not answer
	reserve time.Duration
	engine  clusterEngine
	store   *cluster.Store
	copied  *cluster.Copied // what operators said
	cluster *cluster.Cluster
	woken   chan struct{} // holds a token when the services may be others than before
	counts  balance.Counts
	wanting sync.Mutex // protects custody
	custody custody

	// Protected by Daemon.mu:
	mine map[descriptor.Address]bool // to be published by this manager
	warm map[string]warm             // by shard

	mu     sync.Mutex // protects the fields below
	bytes  int64      // of the store's file; 0: not known
	alarms []string   // of the store
	// strays are services whose owner is dead and that the configuration may have, with a key
	// that cannot be opened.
	strays []descriptor.Address
}

// warm is the watch over the instances of a shard, whether this manager publishes one of its
// customers or none: who takes one over begins with what is known of them.
type warm struct {
	of        *shard
	instances *backend.Subscription
}

// clusterEngine is where the store is.
type clusterEngine interface {
	cluster.Engine
	cluster.Leases
	Close()
}

// openEtcd returns the etcd of a configuration.
func openEtcd(c config.Cluster, files clusterFiles, onions check.Dialer) (clusterEngine, error) {
	return cluster.NewEtcd(files.etcd(c, storeDial(onions)))
}

// storeDial returns how endpoints are reached: onion addresses through tor.
func storeDial(onions check.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	direct := &net.Dialer{Timeout: 5 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, _ := net.SplitHostPort(address)
		if !strings.HasSuffix(host, ".onion") {
			return direct.DialContext(ctx, network, address)
		}
		onion, err := descriptor.ParseAddress(host)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		conn, _, err := onions.Dial(ctx, health.Visit{Address: onion, Port: uint16(n), Circuit: "store", Patient: true})
		return conn, err
	}
}

// idKey is the local key of what identifies a cluster of a name: a store that was wiped is
// then no new one.
func idKey(name string) state.Key { return state.Key("cluster/id/" + name) }

// openMembers opens the store, which need not answer yet.
func openMembers(d *Daemon, onions check.Dialer) (*members, error) {
	cfg := d.cfg.Cluster
	m := &members{
		d: d, name: cfg.Name, hold: cfg.WhenUnavailable == config.UnavailableHold, reserve: cfg.Reserve,
		woken: make(chan struct{}, 1), custody: custody{d: d, lacks: map[descriptor.Address]lack{}}, mine: map[descriptor.Address]bool{}, warm: map[string]warm{},
	}
	files, err := openClusterFiles(cfg)
	if err != nil {
		return nil, err
	}
	manager := cfg.Manager
	if manager == "" {
		if manager, err = cluster.Name(d.ctx, d.store); err != nil {
			return nil, err
		}
	}
	id, _, err := d.store.Get(idKey(cfg.Name))
	if err != nil {
		return nil, fmt.Errorf("opening the store of the cluster: %w", err)
	}
	if m.engine, err = d.engine(cfg, files, onions); err != nil {
		return nil, err
	}
	m.store, err = cluster.Open(cluster.Config{Engine: m.engine, Key: files.key, Name: cfg.Name, ID: string(id), Log: d.log, Now: failpoint.Now()})
	if err != nil {
		m.engine.Close()
		return nil, err
	}
	m.copied = cluster.NewCopied(m.store, d.store, d.log)
	m.cluster = cluster.New(cluster.Options{
		Manager: manager, Version: d.version, Lease: cfg.Lease, Store: m.store, Leases: m.engine, Local: d.store,
		Runner: m, Fit: m.fit, Taking: rush, Record: d.events.Record, Now: failpoint.Now(),
	})
	return m, nil
}

func (m *members) records() records { return m.copied }

func (m *members) environ(env *balance.Env) {
	env.Store, env.Reserve, env.Counts = m.cluster, m.reserve, &m.counts
}

// storeSilent is after what time without any sign of the store it is taken to be lost: this
// manager writes to it once a minute at least.
const storeSilent = 90 * time.Second

func (m *members) awake(descriptor.Address) func() bool { return m.isAwake }

// isAwake is balance.Env.Awake.
func (m *members) isAwake() bool {
	return m.cluster.Awake() && (!m.hold || m.store.Err() == nil && m.store.Age() < storeSilent)
}

// fit is cluster.Options.Fit.
func (m *members) fit() error { return m.d.rooms.Fit() }

func (m *members) publishes(a descriptor.Address) bool { return m.mine[a] }

func (m *members) changed() { wake(m.woken) }

// Start implements cluster.Runner.
func (m *members) Start(_ context.Context, list []descriptor.Address) map[descriptor.Address]error {
	m.turn(list, true)
	failed := m.d.begin(list)
	for a := range failed {
		m.turn([]descriptor.Address{a}, false)
	}
	return failed
}

// Stop implements cluster.Runner.
func (m *members) Stop(_ context.Context, list []descriptor.Address) {
	m.turn(list, false)
	m.d.cease(list)
}

// turn notes whether this manager publishes services.
func (m *members) turn(list []descriptor.Address, mine bool) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	for _, a := range list {
		if mine {
			m.mine[a] = true
		} else {
			delete(m.mine, a)
		}
	}
}

// How often it is looked which services there are, whatever happens, and how often the store
// is asked how it is.
const (
	wantEvery  = 10 * time.Second
	alarmEvery = 3 * time.Second
)

func (m *members) run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() {
		every(ctx, wantEvery, m.woken, func() {
			m.want(ctx)
			m.keepWarm()
			m.lookAstray()
		})
	})
	if e, is := m.engine.(interface{ Client() *etcd.Client }); is {
		wait.Go(func() { every(ctx, alarmEvery, nil, func() { m.ask(ctx, e.Client()) }) })
	}
	wait.Go(func() { m.copied.Run(ctx) })
	if m.join(ctx) == nil {
		m.keepID(ctx)
		m.d.customers.hear(ctx) // none is published whom another manager removed
		m.want(ctx)
		m.cluster.Run(ctx)
	}
	wait.Wait()
}

// joinPatience is how long nothing is said of a store that was not read yet: it logs why.
const joinPatience = 10 * time.Second

// errUnjoined says what comes of a start without the store.
var errUnjoined = errors.New("this manager publishes nothing until it has read the store of the cluster, for the first time since its start: HSDirs keep what is published for three hours")

// join waits until the store was read.
func (m *members) join(ctx context.Context) error {
	attempt, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if m.copied.Wait(attempt) != nil && ctx.Err() == nil {
		m.d.tellCluster(slog.LevelError, errUnjoined.Error(), slog.Any("error", m.store.Err()))
	}
	return m.copied.Wait(ctx)
}

// want tells the cluster which services there are.
func (m *members) want(ctx context.Context) {
	m.wanting.Lock()
	defer m.wanting.Unlock()
	m.cluster.Want(m.custody.services(ctx))
}

// every calls do now, when it is woken, and after some time else, until ctx ends.
func every(ctx context.Context, interval time.Duration, woken <-chan struct{}, do func()) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		do()
		timer.Reset(interval)
		select {
		case <-ctx.Done():
			return
		case <-woken:
		case <-timer.C:
		}
	}
}

// wake puts a token into woken, unless one is there that every has yet to see.
func wake(woken chan<- struct{}) {
	select {
	case woken <- struct{}{}:
	default:
	}
}

// keepID stores what identifies the cluster.
func (m *members) keepID(ctx context.Context) {
	key, id := idKey(m.name), m.store.ID()
	before, version, err := m.d.store.Get(key)
	if err == nil && string(before) != id {
		_, err = m.d.store.Swap(ctx, state.Change{Key: key, Version: version, Value: []byte(id)})
	}
	if err != nil {
		m.d.log.Warn("storing which cluster this is: after a restart, a store that was wiped is taken for a new one", "error", err)
	}
}

// keepWarm watches the instances of the shards that the configuration has.
func (m *members) keepWarm() {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, w := range m.warm {
		if d.customers.shards[name] != w.of {
			w.instances.Close()
			delete(m.warm, name)
		}
	}
	for name, s := range d.customers.shards {
		if m.warm[name].of != s {
			m.warm[name] = warm{s, d.rooms.backends.Subscribe(descriptor.Address{}, s.all.Watched(), s.all.FetchEvery, func() {})}
		}
	}
}

// lookAstray looks for services that only a manager could publish which is not there, if the
// configuration has some whose keys cannot be opened: nothing else is known of them.
func (m *members) lookAstray() {
	m.d.mu.Lock()
	missing := m.d.trouble != nil
	m.d.mu.Unlock()
	var strays []descriptor.Address
	if missing && m.store.Err() == nil {
		entries, _ := m.store.List("")
		for _, a := range cluster.LookAt(time.Now(), entries).Unowned {
			if m.cluster.Ownership(a).State == "" {
				strays = append(strays, a)
			}
		}
	}
	m.mu.Lock()
	before := len(m.strays)
	m.strays = strays
	m.mu.Unlock()
	if len(strays) > before {
		m.d.tellCluster(slog.LevelError, "services have no manager that can certify them, and this one cannot open all of its keys: HSDirs drop their descriptors after three hours",
			slog.Int("services", len(strays)), slog.String("service", strays[0].Short()))
	}
}

// ask asks the store how it is.
func (m *members) ask(ctx context.Context, client *etcd.Client) {
	ctx, cancel := context.WithTimeout(ctx, alarmEvery)
	defer cancel()
	if list, err := client.Alarms(ctx); err == nil {
		var alarms []string
		for _, a := range list {
			alarms = append(alarms, a.Kind)
		}
		slices.Sort(alarms)
		m.alarmed(slices.Compact(alarms))
	}
	endpoints := client.Endpoints()
	sizes := make([]int64, len(endpoints))
	var wait sync.WaitGroup // one that does not answer hides no other
	for n, endpoint := range endpoints {
		wait.Go(func() {
			if s, err := client.Status(ctx, endpoint); err == nil {
				sizes[n] = s.Size
			}
		})
	}
	wait.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes := slices.Max(sizes); bytes > 0 {
		m.bytes = bytes
	}
}

// alarmed notes the alarms of the store.
func (m *members) alarmed(alarms []string) {
	m.mu.Lock()
	before := m.alarms
	m.alarms = alarms
	m.mu.Unlock()
	for _, a := range alarms {
		if !slices.Contains(before, a) {
			m.d.tellCluster(slog.LevelError, "the store of the cluster raised an alarm", slog.String("alarm", a))
		}
	}
	if len(before) > 0 && len(alarms) == 0 {
		m.d.tellCluster(slog.LevelInfo, "the store of the cluster has no alarm any more")
	}
}

func (m *members) reload(cfg *config.Config) (take func(), err error) {
	key, err := cluster.ReadKey(cfg.Cluster.Key)
	if err == nil {
		err = m.store.SetKey(key)
	}
	if err != nil {
		return nil, err
	}
	return func() { m.d.wait.Go(m.reseal) }, nil
}

// reseal has what was sealed with an older key sealed with the one that is the first now.
func (m *members) reseal() {
	n, err := m.store.Reseal(m.d.ctx)
	switch {
	case err != nil:
		m.d.log.Warn("sealing the records of the cluster with the first of its keys: they stay as they are until the next reload", "error", err)
	case n > 0:
		m.d.log.Info("records of the cluster were sealed with the first of its keys", "records", n)
	}
}

// leaveTimeout is how long a manager that is stopped gives its services away; the others take
// what is left.
const leaveTimeout = 5 * time.Second

func (m *members) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := m.cluster.Leave(ctx); err != nil {
		m.d.log.Warn("the other managers take this one's services when its lease ends", "error", err)
	}
}

func (m *members) close() {
	m.store.Close()
	m.engine.Close()
}

func (m *members) describe(s *status.Snapshot) {
	c := m.status()
	s.Cluster = &c
}

// status describes the cluster.
func (m *members) status() status.Cluster {
	v := clusterSight{name: m.name, owning: m.cluster.Status(), store: m.store.Stats(), err: m.store.Err(), held: m.counts.Held.Load(), stale: m.counts.Stale.Load()}
	if !m.copied.Joined() {
		v.owning.Troubles = append(v.owning.Troubles, errUnjoined.Error())
	}
	m.mu.Lock()
	v.bytes, v.alarms = m.bytes, m.alarms
	v.owning.Services += len(m.strays)
	v.owning.Orphans = append(v.owning.Orphans, m.strays...)
	m.mu.Unlock()
	for _, r := range m.published() {
		until, holds := r.Reserved()
		if holds {
			v.holding++
		}
		if !until.IsZero() && (v.reserved.IsZero() || until.Before(v.reserved)) {
			v.reserved = until
		}
	}
	return v.describe()
}

// published lists the services that this manager publishes.
func (m *members) published() (list []*running) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	for _, r := range m.d.services {
		if r.cancel != nil {
			list = append(list, r)
		}
	}
	return list
}

func (m *members) owner(a descriptor.Address) *status.Owner {
	m.d.mu.Lock()
	r := m.d.services[a]
	m.d.mu.Unlock()
	holds := false
	if r != nil {
		_, holds = r.Reserved()
	}
	return ownerOf(m.cluster.Ownership(a), holds)
}

func (m *members) operator() status.ClusterOperator { return clusterOrders{m.cluster, m.status} }
