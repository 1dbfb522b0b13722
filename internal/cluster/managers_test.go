package cluster_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/managers/history"
)

// managed is managers with one engine, and HSDirs that take what they publish, in a bubble.
type managed struct {
	t        *testing.T
	engine   *clustertest.Fake
	key      *cluster.Key
	services []cluster.Service
	managers []*manager

	history history.Log

	mu      sync.Mutex
	highest map[descriptor.Address]uint64
}

// refreshEvery is how often services are published, and perSecond how much counters grow.
const (
	refreshEvery = time.Hour
	perSecond    = 1 << 15
	reserve      = 6 * time.Hour
)

func newWorld(t *testing.T, services int) *managed {
	w := &managed{t: t, engine: clustertest.New(), key: cluster.NewKey(), highest: map[descriptor.Address]uint64{}}
	for n := range services {
		w.services = append(w.services, cluster.Service{Address: addressOf(n), Group: fmt.Sprintf("shard:%d", n%40)})
	}
	return w
}

func addressOf(n int) (a descriptor.Address) {
	binary.BigEndian.PutUint64(a[:], uint64(n)*0x9e3779b97f4a7c15)
	return a
}

// manager is one, with its processes one after the other. It implements cluster.Runner: a
// simple publisher.
type manager struct {
	w      *managed
	name   string
	client *clustertest.Client
	local  *memory
	id     string // of the cluster
	lacks  map[descriptor.Address]error
	broken map[descriptor.Address]error // that cannot be started
	unfit  error
	hasty  bool          // it publishes while it starts
	stuck  chan struct{} // until it is closed, Start hangs

	deaf     atomic.Bool // it cannot read the engine
	careless atomic.Bool // the engine makes its changes whatever version it expects

	cluster *cluster.Cluster
	store   *cluster.Store
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu        sync.Mutex
	published map[descriptor.Address]*publication
	events    []string
	taking    []int // services, each time
	starts    []int
}

// publication is a service that a manager publishes.
type publication struct {
	busy     chan struct{} // holds a token while the rest is in use
	record   state.Service
	version  uint64
	used     uint64
	ceiling  uint64 // that is stored
	due      time.Time
	reserved time.Time // when ceiling was
	retry    time.Time // when to store again what could not be
	fenced   bool
}

func (w *managed) add(names ...string) {
	for _, name := range names {
		m := &manager{w: w, name: name, client: w.engine.Client(), local: &memory{records: map[state.Key]state.Entry{}}, broken: map[descriptor.Address]error{}, lacks: map[descriptor.Address]error{}}
		w.managers = append(w.managers, m)
		m.start()
	}
}

func (w *managed) named(name string) *manager {
	return w.managers[slices.IndexFunc(w.managers, func(m *manager) bool { return m.name == name })]
}

// start starts a process of the manager.
func (m *manager) start() {
	var err error
	m.store, err = cluster.Open(cluster.Config{Engine: connection{m.client, m}, Key: m.w.key, Name: "test", ID: m.id})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.published = map[descriptor.Address]*publication{}
	m.cluster = cluster.New(cluster.Options{
		Manager: m.name, Lease: 9 * time.Second, Store: m.store, Leases: m.client, Local: m.local, Runner: m,
		Fit: func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.unfit
		},
		Taking: func(services int) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.taking = append(m.taking, services)
		},
		Record: m.record,
	})
	m.want()
	ctx, cancel := context.WithCancel(m.w.t.Context())
	m.cancel = cancel
	m.done.Go(func() {
		if m.store.Ready(ctx) == nil {
			m.id = m.store.ID()
			m.cluster.Run(ctx)
		}
	})
	m.done.Go(func() { m.publishAll(ctx) })
}

// connection is a manager's connection to the engine.
type connection struct {
	*clustertest.Client
	m *manager
}

// Range implements cluster.Engine.
func (e connection) Range(ctx context.Context, prefix string, since int64) ([]cluster.Item, int, int64, error) {
	if e.m.deaf.Load() {
		return nil, 0, 0, cluster.ErrUnavailable
	}
	return e.Client.Range(ctx, prefix, since)
}

// Txn implements cluster.Engine.
func (e connection) Txn(ctx context.Context, ops []cluster.Op) (revision int64, made bool, items []cluster.Item, err error) {
	ops = slices.Clone(ops)
	revision, made, items, err = e.Client.Txn(ctx, ops)
	for err == nil && !made && e.m.careless.Load() {
		for n := range ops {
			ops[n].Version = items[n].Version
		}
		revision, made, items, err = e.Client.Txn(ctx, ops)
	}
	return revision, made, items, err
}

func (m *manager) record(e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e.Text)
}

// set changes what is wrong with the manager.
func (m *manager) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// want gives the cluster the services that all have.
func (m *manager) want() {
	list := slices.Clone(m.w.services)
	for n := range list {
		list[n].Lacking = m.lacks[list[n].Address]
	}
	m.cluster.Want(list)
}

// kill ends the process as kill -9 does.
func (m *manager) kill() {
	m.cancel()
	m.store.Close()
	m.done.Wait()
	m.published = map[descriptor.Address]*publication{}
}

// leave ends the process in order.
func (m *manager) leave() {
	m.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m.done.Wait()
	if err := m.cluster.Leave(ctx); err != nil {
		m.w.t.Log(err)
	}
	m.store.Close()
}

// Start implements cluster.Runner.
func (m *manager) Start(ctx context.Context, list []descriptor.Address) map[descriptor.Address]error {
	m.mu.Lock()
	stuck, broken := m.stuck, maps.Clone(m.broken)
	m.starts = append(m.starts, len(list))
	m.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck:
		case <-ctx.Done():
		}
	}
	failed := map[descriptor.Address]error{}
	for _, a := range list {
		if err := broken[a]; err != nil {
			failed[a] = err
			continue
		}
		record, version, err := m.cluster.Service(a)
		if err != nil {
			failed[a] = err
			continue
		}
		p := &publication{busy: make(chan struct{}, 1), record: record, version: version, due: time.Now()}
		for _, c := range record.Ceilings {
			p.used = max(p.used, c.Counter)
		}
		for _, made := range record.Made {
			p.due = made.Refresh // what its predecessor published goes on
		}
		m.mu.Lock()
		if m.published[a] != nil {
			m.w.t.Errorf("%s starts %s twice", m.name, a.Short())
		}
		m.published[a] = p
		hasty := m.hasty
		m.mu.Unlock()
		if hasty {
			m.publish(ctx, a, p)
		}
	}
	return failed
}

// Stop implements cluster.Runner.
func (m *manager) Stop(ctx context.Context, list []descriptor.Address) {
	for _, a := range list {
		m.mu.Lock()
		p := m.published[a]
		delete(m.published, a)
		m.mu.Unlock()
		if p == nil {
			continue
		}
		p.busy <- struct{}{} // no upload is in flight any more
		if !p.fenced && len(p.record.Made) > 0 {
			p.record.Ceilings = []state.Ceiling{{Period: 1, Minutes: 1440, Counter: p.used}}
			_, _ = m.cluster.SwapService(ctx, a, p.version, p.record)
		}
		<-p.busy
	}
}

// publishAll publishes what is due, every few seconds.
func (m *manager) publishAll(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		published := maps.Clone(m.published)
		m.mu.Unlock()
		var wait sync.WaitGroup
		for a, p := range published {
			wait.Go(func() { m.publish(ctx, a, p) })
		}
		wait.Wait()
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
	}
}

func clockCounter() uint64 { return uint64(time.Now().Unix()-946684800) * perSecond }

// publish publishes a service if that is due.
func (m *manager) publish(ctx context.Context, a descriptor.Address, p *publication) {
	p.busy <- struct{}{}
	defer func() { <-p.busy }()
	if p.fenced || !time.Now().After(p.retry) || time.Now().Before(p.due) && time.Since(p.reserved) <= reserve/2 {
		return
	}
	counter := max(clockCounter(), p.used+1)
	due := !time.Now().Before(p.due)
	record := p.record
	record.Ceilings = []state.Ceiling{{Period: 1, Minutes: 1440, Counter: counter + uint64(reserve.Seconds())*perSecond}}
	if due {
		record.Made = []state.Made{{Period: 1, Minutes: 1440, Revision: counter, Built: time.Now(), Refresh: time.Now().Add(refreshEvery)}}
	}
	version, err := m.cluster.SwapService(ctx, a, p.version, record)
	switch {
	case err == nil:
		p.retry = time.Time{}
		p.version, p.record, p.ceiling, p.reserved = version, record, record.Ceilings[0].Counter, time.Now()
	case errors.Is(err, state.ErrFenced):
		p.fenced = true
		return
	case errors.Is(err, state.ErrConflict):
		other, now, err := m.cluster.Service(a)
		if err == nil {
			p.version = now
			p.fenced = other.Term != p.record.Term || other.Owner != p.record.Owner
			for _, c := range other.Ceilings {
				p.used = max(p.used, c.Counter)
			}
		}
		return
	default:
		p.retry = time.Now().Add(time.Minute)
	}
	if err != nil && counter > p.ceiling { // it is not known that nobody else may use it
		return
	}
	if !due || ctx.Err() != nil || !m.cluster.Awake() {
		return
	}
	p.used, p.due = counter, time.Now().Add(refreshEvery)
	m.w.receive(history.Upload{At: time.Now(), Service: a, Counter: counter, Manager: m.name, Term: m.cluster.Ownership(a).Term})
}

// receive has HSDirs take an upload, as tor does: if its counter is above what they have.
func (w *managed) receive(u history.Upload) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.Stored = u.Counter > w.highest[u.Service]; u.Stored {
		w.highest[u.Service] = u.Counter
	}
	w.history.Upload(u)
}

// judge checks the history.
func (w *managed) judge() {
	w.t.Helper()
	for _, b := range w.history.Breaches() {
		w.t.Error(b)
	}
}

// gap returns the longest time that a service was without an upload that was stored, from
// a moment on.
func (w *managed) gap(from time.Time) (longest time.Duration) {
	var all []descriptor.Address
	for _, s := range w.services {
		all = append(all, s.Address)
	}
	longest, _ = w.history.Gap(all, from, time.Now())
	return longest
}

// uploads returns how many there were.
func (w *managed) uploads() int { return len(w.history.Uploads(time.Time{})) }

// owners returns how many services each manager publishes, and of how many that is true of
// more than one or none.
func (w *managed) owners() (of map[string]int, none, several int) {
	of = map[string]int{}
	count := map[descriptor.Address]int{}
	for _, m := range w.managers {
		m.mu.Lock()
		for a, p := range m.published {
			if !p.fenced {
				count[a]++
				of[m.name]++
			}
		}
		m.mu.Unlock()
	}
	for _, s := range w.services {
		switch count[s.Address] {
		case 0:
			none++
		case 1:
		default:
			several++
		}
	}
	return of, none, several
}

// until waits until each service has one manager, and returns how long that took.
func (w *managed) until(what string, limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		of, none, several := w.owners()
		if none == 0 && several == 0 {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			w.t.Fatalf("%s: not within %s: %d services have no manager, %d several: %v", what, limit, none, several, of)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// end ends all processes, for the bubble to end.
func (w *managed) end() {
	for _, m := range w.managers {
		m.kill()
	}
}

func inWorld(t *testing.T, services int, test func(*testing.T, *managed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, services)
		defer w.end()
		test(t, w)
		w.judge()
	})
}

// memory is a local store.
type memory struct {
	mu      sync.Mutex
	records map[state.Key]state.Entry
	last    uint64
}

func (l *memory) Get(key state.Key) ([]byte, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records[key].Value), l.records[key].Version, nil
}

func (l *memory) List(prefix state.Key) (list []state.Entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(l.records)) {
		if strings.HasPrefix(string(key), string(prefix)) {
			list = append(list, l.records[key])
		}
	}
	return list, nil
}

func (l *memory) Swap(_ context.Context, changes ...state.Change) (versions []uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		if have := l.records[c.Key].Version; have != c.Version {
			return nil, &state.ConflictError{Key: c.Key, Want: c.Version, Have: have}
		}
	}
	for _, c := range changes {
		l.last++
		l.records[c.Key] = state.Entry{Key: c.Key, Version: l.last, Value: slices.Clone(c.Value)}
		versions = append(versions, l.last)
	}
	return versions, nil
}
