package standby

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
	"onionbalancer/internal/tor/control"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// world is a service on a simulated network with two machines that may publish it. All but
// the network is real.
type world struct {
	t         *testing.T
	net       *sim.Network
	key       *descriptor.IdentityKey
	instances []*sim.Instance
	active    *machine
	standby   *machine

	fetchEvery time.Duration
	hosted     bool
	ordinary   bool
	heedless   bool // the standby uploads what waited while it slept
	meek       bool // the active one does not reclaim
	beats      bool // the standby has a heartbeat of the active one
	readers    []*sim.Reader
	tally      tally
}

// tally is what a world's clients met.
type tally struct {
	visits, lost int
	why          map[string]int
	lostAt       []time.Time
	none         time.Time     // since when clients have found no descriptor
	gap          time.Duration // the longest such time
	gaps         int
	dead         time.Time     // since when no published point lives
	unreached    time.Duration // the longest such time
	excused      time.Time     // until when lost visits do not count
}

// machine is a host with a tor and, while it runs, a process.
type machine struct {
	w    *world
	name string
	tor  *sim.Tor
	dir  string
	role Role

	mu     sync.Mutex
	skew   time.Duration
	asleep chan struct{}           // closed when it wakes; nil while it is awake
	reach  func(hsdir string) bool // nil: its tor reaches all
	alive  bool                    // a process runs
	heard  Beat                    // the last of its heartbeats
	mute   bool                    // nobody hears them
	fit    func() bool             // what they say; nil: true

	*process // nil while none runs
}

// process is one run of a manager.
type process struct {
	m        *machine
	store    *state.DB
	backends *backend.Set
	env      balance.Env
	queue    *hsdir.UploadQueue
	watcher  *Watcher
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	ended    chan struct{}

	mu       sync.Mutex
	services map[descriptor.Address]*running
	took     []time.Time // when Start was called
	yielded  []time.Time // and Stop
	why      []string    // what the events of taking over and yielding said
	alarms   []string
	rejected int
	broken   error // of Start
}

type running struct {
	service *balance.Service
	cancel  context.CancelFunc
	ended   chan struct{}
}

func soaking() bool { return os.Getenv("BALANCER_SOAK") != "" }

func testIdentity(t testing.TB, n byte) *descriptor.IdentityKey {
	t.Helper()
	key, err := descriptor.IdentityKeyFromSeed(append([]byte{n}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// onWorld runs do in virtual time, with both machines started.
func onWorld(t *testing.T, cfg sim.Config, set func(*world), do func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Params == nil { // fewer slots than on the public network, to take less time
			cfg.Params = map[string]int32{"hsdir_spread_store": 3, "hsdir_spread_fetch": 2}
		}
		if cfg.Tor.ConsensusDelay == 0 {
			cfg.Tor.ConsensusDelay = 3 * time.Minute
		}
		w := &world{t: t, net: sim.New(cfg), key: testIdentity(t, 77), fetchEvery: 5 * time.Minute}
		defer w.net.Close()
		w.tally.why = map[string]int{}
		for range 3 {
			w.instances = append(w.instances, w.net.AddInstance(sim.InstanceConfig{}))
		}
		w.active = &machine{w: w, name: "active", tor: w.net.Tor(), dir: t.TempDir(), role: Active}
		w.standby = &machine{w: w, name: "standby", tor: w.net.AddTor(cfg.Tor), dir: t.TempDir(), role: Standby}
		for _, delay := range []time.Duration{4 * time.Minute, 0, 0} {
			w.readers = append(w.readers, w.net.NewReader(delay))
		}
		if set != nil {
			set(w)
		}
		time.Sleep(2 * time.Minute) // until the instances are published
		w.active.start()
		w.run(3 * time.Minute)
		w.tally = tally{why: map[string]int{}}
		w.standby.start()
		defer func() {
			w.active.wake()
			w.standby.wake()
			w.active.kill()
			w.standby.kill()
		}()
		do(w)
	})
}

// run lets time pass, with a look at HSDirs each minute and a visit every few.
func (w *world) run(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		time.Sleep(min(time.Minute, time.Until(until)))
		w.look()
	}
}

// until lets time pass until is is true, at most for d.
func (w *world) until(what string, d time.Duration, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(d); !is(); w.run(10 * time.Second) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within %s", what, d)
		}
	}
}

// look sees what clients do.
func (w *world) look() {
	now := time.Now()
	found := false
	for _, d := range w.readers[0].Read(w.key.Address()) {
		found = found || d != nil
	}
	longest(&w.tally.none, &w.tally.gap, now, !found, func() { w.tally.gaps++ })
	visits := 1
	if !w.tally.dead.IsZero() {
		visits = 3
	}
	lost := 0
	for range visits {
		r := w.net.NewClient(w.key.Address(), sim.ClientConfig{}).Request()
		w.tally.visits++
		if r.Err != nil && now.After(w.tally.excused) {
			lost++
			w.tally.lost++
			w.tally.why[fmt.Sprint(r.Err)]++
			w.tally.lostAt = append(w.tally.lostAt, now)
		}
	}
	longest(&w.tally.dead, &w.tally.unreached, now, lost > 0, func() {})
}

// longest keeps how long something has lasted, and for how long it did at most.
func longest(since *time.Time, most *time.Duration, now time.Time, is bool, begins func()) {
	switch {
	case !is:
		*since = time.Time{}
	case since.IsZero():
		*since = now
		begins()
	default:
		*most = max(*most, now.Sub(*since))
	}
}

func (w *world) report(what string) {
	a, b := w.active.tor.Counts(), w.standby.tor.Counts()
	w.t.Logf("%s: %d visits, %d lost %v, longest %s; gap %s (%d); active %d fetches %d uploads %d refused; standby %d fetches %d uploads %d refused",
		what, w.tally.visits, w.tally.lost, w.tally.why, w.tally.unreached, w.tally.gap, w.tally.gaps, a.Fetches, a.Posts, a.Rejected, b.Fetches, b.Posts, b.Rejected)
}

// wantNoneLost fails the test if a visit was lost, or clients found no descriptor.
func (w *world) wantNoneLost(when string) {
	w.t.Helper()
	w.report(when)
	if w.tally.lost > 0 || w.tally.gaps > 0 {
		w.t.Errorf("%s: %d of %d visits lost, first at %v; %d gaps, the longest %s", when, w.tally.lost, w.tally.visits, w.tally.lostAt[:min(1, len(w.tally.lostAt))], w.tally.gaps, w.tally.gap)
	}
}

// custodian certifies with a key in memory.
type custodian struct{ key *descriptor.IdentityKey }

func (c custodian) Address() descriptor.Address { return c.key.Address() }
func (c custodian) Close() error                { return nil }
func (c custodian) Certify(_ context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	blinded, err := c.key.Blind(p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	return blinded.CertifyHours([32]byte(signing), expiries)
}

func (c custodian) RevisionKey(_ context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	blinded, err := c.key.Blind(p)
	if err != nil {
		return descriptor.RevisionKey{}, err
	}
	return blinded.RevisionKey(), nil
}

func (w *world) config() balance.Config {
	cfg := balance.Config{
		Keys: credential.Keys{Custodian: custodian{w.key}, Signing: credential.Memory{}}, Strategy: selection.Spread{},
		Room: selection.Room{Points: 20, PerInstance: 3}, FetchEvery: w.fetchEvery, Hosted: w.hosted, Ordinary: w.ordinary,
	}
	for n, i := range w.instances {
		cfg.Instances = append(cfg.Instances, balance.Instance{Name: fmt.Sprintf("web%d", n+1), Address: i.Address(), Weight: 1})
	}
	return cfg
}

// now is the machine's clock. A machine that sleeps does not come back from it.
func (m *machine) now() time.Time {
	m.pause()
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.skew)
}

// pause returns when the machine is awake.
func (m *machine) pause() {
	m.mu.Lock()
	asleep := m.asleep
	m.mu.Unlock()
	if asleep != nil {
		<-asleep
	}
}

// sleep stops the machine's process in mid-air, as SIGSTOP does.
func (m *machine) sleep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asleep = make(chan struct{})
}

func (m *machine) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asleep != nil {
		close(m.asleep)
		m.asleep = nil
	}
}

// dial connects to the machine's tor.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	conn, err := m.tor.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return sleepy{conn, m}, nil
}

// sleepy is a connection of a machine that may sleep.
type sleepy struct {
	net.Conn
	m *machine
}

func (c sleepy) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.pause()
	return n, err
}

func (c sleepy) Write(b []byte) (int, error) {
	c.m.pause()
	return c.Conn.Write(b)
}

// limited is a tor that does not reach all HSDirs.
type limited struct {
	m      *machine
	client *control.Client
}

func (l limited) reaches(hsdir string) bool {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.m.reach == nil || l.m.reach(hsdir)
}

func (l limited) HSFetch(ctx context.Context, address, hsdir string) ([]byte, error) {
	if !l.reaches(hsdir) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.client.HSFetch(ctx, address, hsdir)
}

func (l limited) HSPost(ctx context.Context, address, hsdir string, body []byte) error {
	if !l.reaches(hsdir) {
		<-ctx.Done()
		return ctx.Err()
	}
	return l.client.HSPost(ctx, address, hsdir, body)
}

// start starts the machine's process.
func (m *machine) start() {
	w := m.w
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() && os.Getenv("STANDBY_LOG") != "" {
		log = slog.New(slog.NewTextHandler(w.t.Output(), nil)).With("machine", m.name)
	}
	p := &process{m: m, store: statetest.Open(w.t, m.dir), services: map[descriptor.Address]*running{}, ended: make(chan struct{})}
	m.process = p
	logged := event.Log(log, func(a descriptor.Address) slog.LogValuer { return shortName(a) })
	record := func(e event.Event) {
		p.note(e)
		if p.watcher != nil {
			p.watcher.Heed(e)
		}
		logged(e)
	}
	client := control.New(control.Config{Dial: m.dial, Log: log})
	tor := limited{m, client}
	follower := consensus.New(client, record)
	fetcher := hsdir.NewFetcher(hsdir.FetchConfig{Getter: tor})
	p.backends = backend.New(backend.Config{Consensus: follower, Fetcher: fetcher, Store: p.store, Record: record, Now: m.now})
	p.queue = hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: tor})
	p.env = balance.Env{
		Consensus: follower, Backends: p.backends, Fetcher: fetcher, Store: p.store, Record: record, Now: m.now,
		Uploads: func(descriptor.Address) balance.Uploader { return p.queue },
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	m.mu.Lock()
	m.alive = true
	m.mu.Unlock()
	var services sync.WaitGroup
	var subscription *backend.Subscription
	if m.role == Active {
		cfg := w.config()
		cfg.Reclaim = !w.meek
		service := balance.NewService(cfg, p.env)
		p.services[w.key.Address()] = &running{service: service}
		services.Go(func() { service.Run(ctx) })
	} else {
		cfg := w.config()
		var watched []backend.Instance
		for _, i := range cfg.Instances {
			watched = append(watched, backend.Instance{Name: i.Name, Address: i.Address})
		}
		subscription = p.backends.Subscribe(w.key.Address(), watched, w.fetchEvery, func() {})
		c := Config{Role: m.role, Consensus: follower, Fetcher: fetcher, Runner: p, Record: record, Now: m.now}
		if w.beats {
			c.Heartbeat = w.beat
		}
		p.watcher = New(c)
		s := Service{Address: w.key.Address(), Hosted: w.hosted, Ordinary: w.ordinary, View: subscription.View, Revision: custodian{w.key}.RevisionKey}
		if m.role == Watch {
			c.Runner, s = nil, Service{Address: s.Address}
		}
		p.watcher.Set([]Service{s})
		services.Go(func() { p.watcher.Run(ctx) })
	}
	p.wait.Go(func() { _ = client.Run(ctx) })
	p.wait.Go(func() { follower.Run(ctx) })
	p.wait.Go(func() { p.backends.Run(ctx) })
	go func() {
		defer close(p.ended)
		services.Wait()
		if subscription != nil {
			subscription.Close()
		}
		p.queue.Close()
		p.wait.Wait()
	}()
}

// kill ends the machine's process.
func (m *machine) kill() {
	if m.process == nil {
		return
	}
	m.mu.Lock()
	m.alive = false
	m.mu.Unlock()
	m.cancel()
	<-m.ended
	if err := m.store.Close(); err != nil {
		m.w.t.Error(err)
	}
	m.process = nil
}

// beat is the heartbeat of the active machine, which goes by another way than tor.
func (w *world) beat() Beat {
	m := w.active
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.alive && m.asleep == nil && !m.mute {
		m.heard = Beat{Heard: time.Now(), Fit: m.fit == nil || m.fit()}
	}
	return m.heard
}

func (p *process) note(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Kind == event.UploadFailed && strings.Contains(fmt.Sprint(e.Attrs), "UPLOAD_REJECTED") {
		p.rejected++
	}
	switch {
	case e.Kind != Kind:
	case e.Text == "taking over", e.Text == "yielding":
		p.why = append(p.why, fmt.Sprintf("%s %s: %s", e.At.Format("02 15:04:05"), e.Text, e.Attrs))
	case e.Level > slog.LevelInfo:
		p.alarms = append(p.alarms, e.Text)
	}
}

func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = err
}

// The methods of a Runner.

func (p *process) Start(ctx context.Context, a descriptor.Address, floors []state.Ceiling) error {
	p.mu.Lock()
	broken := p.broken
	p.mu.Unlock()
	if broken != nil {
		return broken
	}
	if len(floors) > 0 {
		if err := Raise(ctx, p.store, a, floors); err != nil {
			return err
		}
	}
	env := p.env
	env.Awake = func() bool { return p.m.w.heedless || p.watcher.Awake(a) }
	r := &running{service: balance.NewService(p.m.w.config(), env), ended: make(chan struct{})}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, time.Now())
	p.services[a] = r
	go func() {
		defer close(r.ended)
		r.service.Run(ctx)
	}()
	return nil
}

func (p *process) Stop(a descriptor.Address) {
	p.mu.Lock()
	r := p.services[a]
	delete(p.services, a)
	p.yielded = append(p.yielded, time.Now())
	p.mu.Unlock()
	r.cancel()
	<-r.ended
}

func (p *process) Made(a descriptor.Address, d Made) bool {
	p.mu.Lock()
	r := p.services[a]
	p.mu.Unlock()
	if r != nil && r.service.Made(d.Period, d.Counter, d.Signer) {
		return true
	}
	record, _, err := p.store.Service(a)
	if err != nil {
		p.m.w.t.Error(err)
	}
	return MadeBefore(record, d)
}

// taken reports whether the standby publishes.
func (m *machine) taken() bool {
	return m.process != nil && slices.ContainsFunc(m.watcher.Status(), func(s Status) bool { return s.Taken })
}

// shortName is an address as logs show it.
type shortName descriptor.Address

func (n shortName) LogValue() slog.Value { return slog.StringValue(descriptor.Address(n).Short()) }
