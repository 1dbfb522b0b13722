package balance

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/check"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/control"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// scene is one service on a simulated network, with everything real but the
// network: our control client, fetcher, publisher and rounds.
type scene struct {
	t         *testing.T
	net       *sim.Network
	instances []*sim.Instance
	service   *Service
	watcher   *consensus.Watcher
	env       Env
	dir       string // of the store
	broken    error  // what the store says when the service starts
	prepare   func() // does more to the store and env before the service starts, if not nil
	store     *flakyStore
	custodian *memoryCustodian
	signing   credential.SigningKeys
	custody   func(*Config)        // other keys than those, if not nil
	keeper    credential.Custodian // instead of custodian, if not nil
	handler   slog.Handler
	fetching  hsdir.FetchConfig
	checks    health.Spec   // of every instance; the zero Spec for none
	visits    time.Duration // between those of the public address; 0 for none
	decoded   map[*byte]map[*sim.Instance]int
	rejected  atomic.Int32  // uploads, as services heard of them
	skew      time.Duration // of the service's wall clock
	mu        sync.Mutex    // protects skew
	stop      func()
	// stopService ends the service alone.
	stopService func()
}

// flakyStore is a store that can be made to fail or hang.
type flakyStore struct {
	*state.DB
	mu     sync.Mutex
	broken error
	hung   chan struct{} // closed when the store answers again; nil while it does
}

// hang has every later call wait until release.
func (f *flakyStore) hang() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hung := make(chan struct{})
	f.hung = hung
	return func() { f.mu.Lock(); defer f.mu.Unlock(); f.hung = nil; close(hung) }
}

func (f *flakyStore) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *flakyStore) err() error {
	f.mu.Lock()
	hung := f.hung
	f.mu.Unlock()
	if hung != nil {
		<-hung
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

func (f *flakyStore) Service(a descriptor.Address) (state.Service, uint64, error) {
	if err := f.err(); err != nil {
		return state.Service{}, 0, err
	}
	return f.DB.Service(a)
}

func (f *flakyStore) SwapService(ctx context.Context, a descriptor.Address, version uint64, r state.Service) (uint64, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.DB.SwapService(ctx, a, version, r)
}

func (f *flakyStore) SwapInstance(ctx context.Context, a descriptor.Address, version uint64, r state.Instance) (uint64, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.DB.SwapInstance(ctx, a, version, r)
}

func (f *flakyStore) SwapClaims(ctx context.Context, p descriptor.Period, version uint64, r state.Claims) (uint64, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.DB.SwapClaims(ctx, p, version, r)
}

// memoryCustodian certifies with a key in memory, and can be made to fail.
type memoryCustodian struct {
	key       *descriptor.IdentityKey
	mu        sync.Mutex
	broken    error
	certified int
	asked     int
	closed    int
}

func (m *memoryCustodian) Address() descriptor.Address { return m.key.Address() }

func (m *memoryCustodian) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
}

// times returns how often it has certified.
func (m *memoryCustodian) times() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.certified
}

func (m *memoryCustodian) Certify(_ context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.broken != nil {
		return descriptor.HourlyCertificates{}, m.broken
	}
	m.certified++
	blinded, err := m.key.Blind(p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	return blinded.CertifyHours([32]byte(signing), expiries)
}

func (m *memoryCustodian) RevisionKey(_ context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	blinded, err := m.key.Blind(p)
	if err != nil {
		return descriptor.RevisionKey{}, err
	}
	return blinded.RevisionKey(), nil
}

func (m *memoryCustodian) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed++
	return nil
}

// counts returns how often m was asked to certify, and how often it was closed.
func (m *memoryCustodian) counts() (asked, closed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked, m.closed
}

// soaking reports whether tests may take as long as they like: "make soak".
func soaking() bool { return os.Getenv("BALANCER_SOAK") != "" }

// onScene runs do on a network with three instances and a running service, in
// virtual time.
func onScene(t *testing.T, cfg sim.Config, do func(t *testing.T, s *scene)) {
	onSceneOf(t, cfg, []sim.InstanceConfig{{}, {}, {}}, do)
}

func onSceneOf(t *testing.T, cfg sim.Config, instances []sim.InstanceConfig, do func(t *testing.T, s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, net: sim.New(cfg), dir: t.TempDir(), custodian: &memoryCustodian{key: testIdentity(t, 77)}, signing: credential.Memory{}}
		defer s.net.Close()
		for _, i := range instances {
			s.instances = append(s.instances, s.net.AddInstance(i))
		}
		time.Sleep(2 * time.Minute) // until the instances are published
		s.start()
		defer func() { s.stop() }()
		do(t, s)
	})
}

// now is the service's clock: a wall clock, which may be wrong, and a steady
// monotonic one.
func (s *scene) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return bothClocks(now.Add(s.skew), now)
}

// bothClocks returns a time with two clocks, as time.Now does outside of a synctest
// bubble. Package time has no function for that.
func bothClocks(wall, monotonic time.Time) time.Time {
	const has = 1 << 63
	since := wall.Unix() - time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	t := struct {
		wall uint64
		ext  int64
		zone *time.Location
	}{has | uint64(since)<<30 | uint64(wall.Nanosecond()), monotonic.UnixNano(), time.UTC}
	return *(*time.Time)(unsafe.Pointer(&t))
}

// step moves the service's clock.
func (s *scene) step(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += by
}

func (s *scene) config() Config {
	cfg := Config{Keys: credential.Keys{Custodian: cmp.Or[credential.Custodian](s.keeper, s.custodian), Signing: s.signing}, Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}, FetchEvery: time.Minute}
	for n, i := range s.instances {
		cfg.Instances = append(cfg.Instances, Instance{Name: fmt.Sprintf("web%d", n+1), Address: i.Address(), Weight: 1, Check: s.checks})
	}
	cfg.Visits = Visits{Every: s.visits, Spec: s.checks}
	if s.custody != nil {
		s.custody(&cfg)
	}
	return cfg
}

// start starts the service, as a new process would.
func (s *scene) start() {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(s.t.Output(), nil))
	}
	if s.handler != nil {
		log = slog.New(s.handler)
	}
	client := control.New(control.Config{Dial: s.net.Dial, Log: log})
	logged := event.Log(log, func(a descriptor.Address) slog.LogValuer { return shortName(a) })
	record := func(e event.Event) {
		if e.Kind == event.UploadFailed && strings.Contains(fmt.Sprint(e.Attrs), "UPLOAD_REJECTED") {
			s.rejected.Add(1)
		}
		logged(e)
	}
	s.store = &flakyStore{DB: statetest.Open(s.t, s.dir), broken: s.broken}
	s.watcher = consensus.New(client, record)
	s.fetching.Getter = client
	fetcher := hsdir.NewFetcher(s.fetching)
	checks := check.New(check.Config{Prober: check.Through(s.net.Dialer()), Seed: 1})
	backends := backend.New(backend.Config{Consensus: s.watcher, Fetcher: fetcher, Checks: checks, Store: s.store, Record: record, Now: s.now})
	queue := hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: client})
	s.env = Env{
		Consensus: s.watcher, Backends: backends, Fetcher: fetcher, Store: s.store, Record: record, Now: s.now,
		Uploads: func(descriptor.Address) Uploader { return queue },
		Visitor: checks, Checked: backends.LastCheck,
	}
	if s.prepare != nil {
		s.prepare()
	}
	s.service = NewService(s.config(), s.env)
	ctx, cancel := context.WithCancel(s.t.Context())
	var wait, services sync.WaitGroup
	wait.Go(func() { _ = client.Run(ctx) })
	wait.Go(func() { s.watcher.Run(ctx) })
	wait.Go(func() { backends.Run(ctx) })
	wait.Go(func() { checks.Run(ctx) })
	serving, end := context.WithCancel(ctx)
	services.Go(func() { s.service.Run(serving) })
	s.stopService = func() {
		end()
		services.Wait()
	}
	s.stop = func() {
		cancel()
		s.stopService()
		queue.Close()
		wait.Wait()
		if err := s.store.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// shortName is an address as logs show it.
type shortName descriptor.Address

func (n shortName) LogValue() slog.Value { return slog.StringValue(descriptor.Address(n).Short()) }

// startAt has the service start at a time of the day, for a test to begin shortly
// before what it waits for.
func (s *scene) startAt(clock time.Duration) {
	s.stop()
	time.Sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(clock)))
	s.start()
}

// restart ends the service without ceremony and starts it again from its store.
func (s *scene) restart() {
	s.stop()
	s.start()
}

// fetchEvery makes fetches rarer, for a test of many days to take less time.
func (s *scene) fetchEvery(every time.Duration) {
	cfg := s.config()
	cfg.FetchEvery = every
	s.service.Reconfigure(cfg)
}

// settle lets d pass, and whatever happens meanwhile.
func (s *scene) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// client returns a client of the public address.
func (s *scene) client() *sim.Client {
	return s.net.NewClient(s.custodian.Address(), sim.ClientConfig{})
}

// want fails unless the service is in one of the states, or is soon.
func (s *scene) want(when string, states ...status.State) status.Service {
	s.t.Helper()
	got := s.service.Status()
	for range 60 { // an upload may be in flight at any moment
		if slices.Contains(states, got.State) {
			return got
		}
		s.settle(time.Second)
		got = s.service.Status()
	}
	s.t.Errorf("%s: the service is %s, want %s (warnings %q, instances %+v)", when, got.State, states, got.Warnings, got.Instances)
	return got
}

// reach makes n requests by new clients and returns how many each instance
// answered. Requests that are lost fail the test.
func (s *scene) reach(when string, n int) map[*sim.Instance]int {
	s.t.Helper()
	answers := map[*sim.Instance]int{}
	lost := 0
	var why error
	for range n {
		r := s.client().Request()
		if r.Err != nil {
			lost++
			why = r.Err
			continue
		}
		answers[r.Instance]++
	}
	if lost > 0 {
		s.t.Errorf("%s: %d of %d requests lost: %v", when, lost, n, why)
	}
	return answers
}

var errTokenGone = errors.New("the token is gone")
