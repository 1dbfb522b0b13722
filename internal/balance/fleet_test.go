package balance

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/check"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// fleet is hosting on a simulated network: customers' services with all that decides what
// they publish, and when, real: the services, the watching of their instances, the checks,
// the upload queues, the pool of tors. No descriptor is signed, encoded or read: what an
// upload carries is taken from the service, and HSDirs, replicas and tors are played.
type fleet struct {
	fleetConfig
	random *rand.Rand // the world's
	net    *sim.Network
	parser hsdir.Parser

	mu          sync.Mutex // protects the fields below
	consensus   *hsdir.Consensus
	subscribers map[chan struct{}]bool

	tors      []*fleetTor
	pool      *tor.Pool
	shards    []*fleetShard
	replicas  map[descriptor.Address]*replica
	customers map[descriptor.Address]*customer
	began     time.Time
	live      sync.Map // by authentication key of a point, whether it lives
	tally     fleetTally

	relays   []*sim.Relay // of the consensus listedOf
	listed   map[descriptor.Fingerprint]bool
	listedOf *hsdir.Consensus
}

// fleetConfig says how large a fleet is, and how often things fail, on average.
type fleetConfig struct {
	customers, shards, tors int
	inNetwork               int     // relays
	churn                   float64 // of the relays, in a day
	rate                    int     // uploads a second through each tor
	crash, freeze           time.Duration
	torDies                 time.Duration
	seed                    uint64
}

const (
	replicasEach = 2
	worldStep    = 30 * time.Second
)

// fleetShard is the replicas of some customers.
type fleetShard struct {
	replicas  []*replica
	customers []*customer
	hot       time.Time // until when its customers are looked at in every step
}

// replica is an instance as tor runs it: three points in each of two descriptors, which
// end after 18 to 24 hours, with their relay, or with the tor.
type replica struct {
	fleet   *fleet
	shard   *fleetShard
	address descriptor.Address

	mu      sync.Mutex
	state   replicaState
	until   time.Time // when state ends
	points  map[descriptor.Period][]*fleetPoint
	known   map[descriptor.Period]*descriptor.Descriptor // that HSDirs have
	upload  time.Time                                    // when the next is due
	settled time.Time                                    // since when clients could find it
}

type replicaState int

const (
	replicaUp replicaState = iota
	replicaDead
	replicaFrozen
)

type fleetPoint struct {
	descriptor.IntroductionPoint
	ends time.Time
}

// customer is a service with what HSDirs have of it.
type customer struct {
	fleet   *fleet
	shard   *fleetShard
	service *Service

	mu     sync.Mutex
	held   map[descriptor.Period][]fleetCopy
	lost   time.Time // since when no client reaches it although a replica lives
	scarce time.Time // since when clients may get a descriptor of which few points live
}

type fleetCopy struct {
	hsdir   [20]byte
	holding *holding
	at      time.Time
	left    bool // the HSDir has not been one of the service's since, for a while at least
}

// keysOnly certifies with a key in memory, once for a whole period, to save time.
type keysOnly struct{ *memoryCustodian }

func (k keysOnly) Certify(_ context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	blinded, err := k.key.Blind(p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	return blinded.CertifyHours([32]byte(signing), descriptor.Expiries{First: expiries.Last(), Count: 1})
}

// newFleet returns a fleet that run starts.
func newFleet(t *testing.T, cfg fleetConfig) *fleet {
	f := &fleet{
		fleetConfig: cfg, random: rand.New(rand.NewPCG(cfg.seed, 1)), began: time.Now(),
		net:         sim.New(sim.Config{Seed: cfg.seed, Relays: cfg.inNetwork, Churn: cfg.churn}),
		subscribers: map[chan struct{}]bool{}, replicas: map[descriptor.Address]*replica{}, customers: map[descriptor.Address]*customer{},
	}
	f.read(t)
	var list []*tor.Tor
	for n := range cfg.tors {
		ours := &fleetTor{fleet: f, next: f.began.Add(f.within(cfg.torDies))}
		ours.tor = tor.New(fmt.Sprintf("tor-%d", n+1), control.New(control.Config{Dial: ours.dial}))
		ours.queue = hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: ours, PerSecond: float64(cfg.rate), Burst: 10 * cfg.rate})
		f.tors, list = append(f.tors, ours), append(list, ours.tor)
	}
	f.pool = tor.NewPool(list...)
	number := uint64(0)
	address := func() *descriptor.IdentityKey {
		number++
		key, err := descriptor.IdentityKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), number))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	for range cfg.shards {
		s := &fleetShard{}
		for range replicasEach {
			r := &replica{
				fleet: f, shard: s, address: address().Address(), points: map[descriptor.Period][]*fleetPoint{},
				known: map[descriptor.Period]*descriptor.Descriptor{}, settled: f.began,
			}
			s.replicas, f.replicas[r.address] = append(s.replicas, r), r
		}
		f.shards = append(f.shards, s)
	}
	checks := check.New(check.Config{Prober: fleetProber{f}, Seed: cfg.seed})
	backends := backend.New(backend.Config{Consensus: f, Fetcher: f, Checks: checks, Store: fleetStore{}, Record: func(event.Event) {}})
	env := Env{
		Consensus: f, Backends: backends, Fetcher: f, Store: fleetStore{}, Record: func(event.Event) {}, Checked: backends.LastCheck,
		Uploads: func(a descriptor.Address) Uploader { return f.torOf(a) },
	}
	for n := range cfg.customers {
		c := &customer{fleet: f, shard: f.shards[n%cfg.shards], held: map[descriptor.Period][]fleetCopy{}}
		service := Config{
			Keys:     credential.Keys{Custodian: keysOnly{&memoryCustodian{key: address()}}, Signing: credential.Memory{}},
			Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}, Hosted: true,
		}
		for n, r := range c.shard.replicas {
			service.Instances = append(service.Instances, Instance{Name: fmt.Sprintf("r%d", n+1), Address: r.address, Weight: 1, Check: fleetCheck})
		}
		c.service = NewService(service, env)
		f.customers[c.service.Address()], c.shard.customers = c, append(c.shard.customers, c)
	}
	f.start(t, checks, backends)
	return f
}

// fleetCheck is a check by the usual times.
var fleetCheck = health.Spec{
	Kind: health.TCP, Port: 80, Interval: 30 * time.Second, FastInterval: 5 * time.Second, Timeout: 15 * time.Second, Rise: 2, Fall: 3, Jitter: 0.2,
}

// start runs everything until the test ends.
func (f *fleet) start(t *testing.T, checks *check.Runner, backends *backend.Set) {
	ctx, cancel := context.WithCancel(t.Context())
	var services, wait sync.WaitGroup
	f.step(time.Now())
	wait.Go(func() { f.pool.Run(ctx, func(event.Event) {}) })
	wait.Go(func() { backends.Run(ctx) })
	wait.Go(func() { checks.Run(ctx) })
	for _, ours := range f.tors {
		wait.Go(func() { ours.tor.EachConnect(ctx, ours.queue.RetryNow) })
	}
	wait.Go(func() {
		for {
			changed := f.pool.Changed()
			for _, t := range f.tors {
				t.queue.SetRate(float64(f.rate*len(f.tors)) / float64(f.pool.Serving()))
			}
			for _, c := range f.customers {
				c.service.Moved()
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	for _, c := range f.customers {
		services.Go(func() { c.service.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		services.Wait()
		for _, ours := range f.tors {
			ours.queue.Close()
		}
		wait.Wait()
		f.net.Close()
	})
}

// within returns a random time until something that happens so often on average.
func (f *fleet) within(mean time.Duration) time.Duration {
	return time.Duration(f.random.ExpFloat64() * float64(mean))
}

// read takes the network's consensus.
func (f *fleet) read(t testing.TB) {
	is := f.net.Consensus()
	c, err := f.parser.Parse(is.Text(), is.Microdescs(), false)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.consensus = c
	for ch := range f.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Consensus implements backend.Source.
func (f *fleet) Consensus() (*hsdir.Consensus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.consensus, nil
}

// Subscribe implements backend.Source.
func (f *fleet) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers[ch] = true
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subscribers, ch)
	}
}

// Fetch fetches an instance's descriptor.
func (f *fleet) Fetch(ctx context.Context, _ *hsdir.Consensus, keys descriptor.PeriodKeys, _ *descriptor.ClientKey, _ uint64, now time.Time) (hsdir.FetchResult, error) {
	time.Sleep(2 * time.Second)
	r := f.replicas[keys.Address]
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.known[keys.Period]
	if d == nil || now.Unix()-int64(d.RevisionCounter) > int64(keptFor.Seconds()) {
		return hsdir.FetchResult{}, hsdir.ErrNotFound
	}
	return hsdir.FetchResult{Descriptor: d}, nil
}

var errPlayed = errors.New("what HSDirs have is not read back here")

// AskOuter implements Fetcher.
func (f *fleet) AskOuter(context.Context, *hsdir.Consensus, descriptor.PeriodKeys, [20]byte, time.Time) (hsdir.FetchResult, error) {
	return hsdir.FetchResult{}, errPlayed
}

// fleetStore keeps nothing, as if each record were written.
type fleetStore struct{ backend.Store }

func (fleetStore) Service(descriptor.Address) (state.Service, uint64, error) {
	return state.Service{}, 0, nil
}

func (fleetStore) SwapService(_ context.Context, _ descriptor.Address, version uint64, _ state.Service) (uint64, error) {
	return version + 1, nil
}

func (fleetStore) Swap(context.Context, ...state.Change) ([]uint64, error) { return nil, nil }

func (fleetStore) Instances() ([]state.Listed[state.Instance], error) { return nil, nil }
func (fleetStore) AllClaims() ([]state.ListedClaims, error)           { return nil, nil }
func (fleetStore) Words() ([]state.Listed[state.Word], error)         { return nil, nil }

func (fleetStore) SwapInstance(_ context.Context, _ descriptor.Address, version uint64, _ state.Instance) (uint64, error) {
	return version + 1, nil
}

func (fleetStore) SwapClaims(_ context.Context, _ descriptor.Period, version uint64, _ state.Claims) (uint64, error) {
	return version + 1, nil
}

// fleetProber finds replicas alive that are.
type fleetProber struct{ *fleet }

var errDead = errors.New("no answer")

func (p fleetProber) Check(_ context.Context, a descriptor.Address, spec health.Spec, _ string, fresh bool) health.Result {
	r := p.replicas[a]
	began := time.Now()
	r.mu.Lock()
	is := r.state
	r.mu.Unlock()
	switch is {
	case replicaDead:
		return health.Result{Began: began, Ended: time.Now(), Fresh: true, Stage: health.NoPoint, Err: errDead}
	case replicaFrozen:
		time.Sleep(spec.Timeout)
		return health.Result{Began: began, Ended: time.Now(), Fresh: true, Stage: health.Introduced, Err: context.DeadlineExceeded}
	}
	time.Sleep(500 * time.Millisecond)
	return health.Result{Began: began, Ended: time.Now(), Fresh: fresh, Stage: health.Connected}
}

func (p fleetProber) Ended(context.Context, descriptor.Address, string) (<-chan struct{}, error) {
	return nil, nil
}
func (p fleetProber) Authorize(context.Context, descriptor.Address, *descriptor.ClientKey) error {
	return nil
}
func (p fleetProber) Revoke(context.Context, descriptor.Address) error { return nil }

// fleetTor is one of the manager's tors, with the queue of its uploads.
type fleetTor struct {
	fleet *fleet
	tor   *tor.Tor
	queue *hsdir.UploadQueue
	next  time.Time // when it dies or is back

	outage time.Duration // for how long it dies; 0: for a random time

	dead     atomic.Bool
	mu       sync.Mutex
	conns    []net.Conn
	launched []uint16 // in each second since the fleet began
}

func (f *fleet) torOf(a descriptor.Address) *fleetTor {
	serves := f.pool.For(a)
	return f.tors[slices.IndexFunc(f.tors, func(t *fleetTor) bool { return t.tor == serves })]
}

// dial connects to the tor's control port.
func (t *fleetTor) dial(context.Context) (net.Conn, error) {
	if t.dead.Load() {
		return nil, errDead
	}
	ours, theirs := net.Pipe()
	t.mu.Lock()
	t.conns = append(t.conns, ours)
	t.mu.Unlock()
	go func() {
		defer ours.Close()
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			reply := "250 OK"
			switch word, rest, _ := strings.Cut(lines.Text(), " "); {
			case word == "PROTOCOLINFO":
				reply = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK"
			case rest == "consensus/valid-until":
				reply = "250-" + rest + "=" + time.Now().UTC().Add(3*time.Hour).Format(time.DateTime) + "\r\n250 OK"
			case word == "GETINFO":
				reply = "250-" + rest + "=\r\n250 OK"
			}
			if _, err := fmt.Fprintf(ours, "%s\r\n", reply); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

// HSPost implements hsdir.Poster. One upload in a hundred is not answered.
func (t *fleetTor) HSPost(ctx context.Context, _, at string, _ []byte) error {
	if t.dead.Load() {
		time.Sleep(time.Second)
		return errDead
	}
	t.note(time.Since(t.fleet.began))
	if rand.IntN(100) == 0 {
		time.Sleep(10 * time.Second)
		return errDead
	}
	time.Sleep(time.Second + rand.N(3*time.Second))
	if t.dead.Load() {
		return errDead
	}
	return nil
}

func (t *fleetTor) note(since time.Duration) {
	second := int(since / time.Second)
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.launched) <= second {
		t.launched = append(t.launched, 0)
	}
	t.launched[second]++
}

// Upload implements Uploader. It notes what HSDirs confirm.
func (t *fleetTor) Upload(u hsdir.Upload) {
	c := t.fleet.customers[u.Address]
	e := c.service.state.Editions[u.Period] // the loop calls
	report, held := u.Report, make(map[[20]byte]*holding, len(u.Slots))
	for _, at := range u.Slots {
		held[at.HSDir] = e.slot(at.HSDir).holding
	}
	u.Body = func(context.Context, hsdir.Slot) ([]byte, error) {
		if e.superseded.Load() {
			return nil, hsdir.ErrSuperseded
		}
		return nil, nil
	}
	u.Release = nil
	u.Report = func(r hsdir.UploadResult) {
		if r.Err == nil {
			c.receive(u.Period, r.Slot, held[r.Slot.HSDir])
		} else {
			t.fleet.tally.failed.Add(1)
		}
		report(r)
	}
	t.queue.Upload(u)
}

// Cancel implements Uploader.
func (t *fleetTor) Cancel(a descriptor.Address) { t.queue.Cancel(a) }
