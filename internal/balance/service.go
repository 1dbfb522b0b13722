package balance

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// Config says what a service is made of. A running service takes a new one as
// long as the address stays.
//
// Its Custodian and Signing become the service's, which closes them when it has
// no more use for them.
type Config struct {
	Custodian  Custodian
	Signing    SigningKeys
	Custody    Custody
	Strategy   selection.Strategy
	Room       selection.Room // for introduction points in a descriptor
	Instances  []Instance
	FetchEvery time.Duration // how often an instance is asked for that is fine
	Automatic  bool          // FetchEvery is nobody's wish: more often on a testing network
}

// Env is what services share.
type Env struct {
	Network   *Network
	Fetcher   Fetcher
	Publisher Publisher
	Store     Store
	Log       *slog.Logger
	// Now is the clock; nil stands for time.Now.
	Now func() time.Time
	// FullNames says whether logs show onion addresses whole, each time that one
	// is logged; nil stands for no.
	FullNames func() bool
}

// Name returns what logs call a service or an instance.
func (e Env) Name(a descriptor.Address) slog.LogValuer { return name{a, e.FullNames} }

type name struct {
	address descriptor.Address
	full    func() bool
}

// LogValue is the address, shortened unless all of it is wanted by now.
func (n name) LogValue() slog.Value {
	if n.full != nil && n.full() {
		return slog.StringValue(n.address.String())
	}
	return slog.StringValue(n.address.Short())
}

// Service keeps the master descriptors of one public address published.
type Service struct {
	address descriptor.Address
	env     Env
	log     *slog.Logger

	configs   chan struct{} // holds a token when something was handed over
	fetches   chan Answer
	outcomes  chan outcome
	certified chan certified
	readbacks chan Answer
	snapshot  atomic.Pointer[status.Service]
	wait      sync.WaitGroup // fetches under way
	closing   sync.WaitGroup // of keys

	mu     sync.Mutex
	handed []Config // by Reconfigure, oldest first
	ended  bool     // nobody will take what is handed over

	// All that follows belongs to the goroutine of Run.
	cfg         Config
	decoder     descriptor.Decoder
	random      *rand.Rand
	started     time.Time
	instances   []*instance
	epoch       epoch
	every       time.Duration // between fetches of an instance that is fine
	settleAt    time.Time
	keys        map[descriptor.Period]descriptor.PeriodKeys
	custody     *custody
	former      []*custody // those before it that something is still signed with
	authorities map[descriptor.Period]*authority
	editions    map[descriptor.Period]*edition
	revisions   *revisions
	signers     map[[32]byte]bool // the descriptor-signing keys that were ever ours, in this run
	readback    readback
	claims      *claims
	dawn        time.Time // when the period, or the service, began
	listened    time.Time // since when all instances are asked whose new keys are, else zero
	chosen      []selection.Candidate
	contents    *descriptor.Contents // of the last plan that had any points
	left        map[string][]string  // by instance: why points of it are left out
	thefts      map[string]string    // by instance: whose keys it offers
	lack        lack
	retryAt     time.Time
	retries     int
	rounds      uint64
	lastRound   time.Time
	published   time.Time // first confirmation on an HSDir that clients ask
	troubles    troubles
	outlook     outlook
	outlookSaid time.Time         // in the log
	said        map[string]saying // of what is wrong with the keys, in the log
}

// NewService returns a service that does nothing until Run.
func NewService(cfg Config, env Env) *Service {
	address := cfg.Custodian.Address()
	s := &Service{
		address:     address,
		env:         env,
		log:         env.Log.With("service", env.Name(address)),
		configs:     make(chan struct{}, 1),
		fetches:     make(chan Answer, 64),
		outcomes:    make(chan outcome, 256),
		certified:   make(chan certified, 4),
		readbacks:   make(chan Answer, 1),
		signers:     map[[32]byte]bool{},
		random:      rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		keys:        map[descriptor.Period]descriptor.PeriodKeys{},
		authorities: map[descriptor.Period]*authority{},
		editions:    map[descriptor.Period]*edition{},
		troubles:    troubles{},
		claims:      newClaims(descriptor.Period{}),
	}
	if s.env.Now == nil {
		s.env.Now = time.Now
	}
	s.reconfigure(s.env.Now(), cfg)
	s.snapshot.Store(&status.Service{
		Address: address.String(), State: status.StateStarting, Strategy: cfg.Strategy.Name(), Custody: s.reportCustody(s.env.Now()),
	})
	return s
}

// Address returns the public address.
func (s *Service) Address() descriptor.Address { return s.address }

// Status returns what the service last told of itself.
func (s *Service) Status() status.Service { return *s.snapshot.Load() }

// Run does rounds until ctx ends: whenever the consensus, an instance, a slot
// or the configuration changed, or something is due. What is published stays.
func (s *Service) Run(ctx context.Context) {
	defer s.end()
	defer s.wait.Wait()
	changed, unsubscribe := s.env.Network.Subscribe()
	defer unsubscribe()
	defer s.env.Publisher.Withdraw(s.address)
	s.started = s.env.Now()
	var err error
	s.revisions, err = newRevisions(s.address, s.env.Store)
	s.troubles.set(troubleFloors, err)
	s.restore(s.started)
	for ctx.Err() == nil {
		now := s.env.Now()
		s.finish(s.round(ctx, now))
		timer := time.NewTimer(s.wake(now).Sub(now))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case <-s.configs:
			s.takeOver(s.env.Now())
		case answer := <-s.fetches:
			s.absorb(s.env.Now(), answer)
		case outcome := <-s.outcomes:
			s.confirm(s.env.Now(), outcome)
		case certified := <-s.certified:
			s.certifiedNow(s.env.Now(), certified)
		case answer := <-s.readbacks:
			s.compare(s.env.Now(), answer)
		}
		timer.Stop()
		s.drain()
	}
}

// drain takes in what else has arrived, so that one round serves it all.
func (s *Service) drain() {
	for {
		select {
		case answer := <-s.fetches:
			s.absorb(s.env.Now(), answer)
		case outcome := <-s.outcomes:
			s.confirm(s.env.Now(), outcome)
		case certified := <-s.certified:
			s.certifiedNow(s.env.Now(), certified)
		default:
			return
		}
	}
}
