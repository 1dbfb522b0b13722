package balance

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/advice"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/health"
	"onionbalancer/internal/relayset"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

// Instance is a backend as the operator configured it for a service.
type Instance struct {
	Name        string
	Address     descriptor.Address
	Weight      float64               // for strategies that weigh; 0 drains the instance
	Client      *descriptor.ClientKey // nil for a descriptor that anybody may read
	Probe       bool                  // it has a probe address
	Check       health.Spec
	CheckClient *descriptor.ClientKey // for where Check connects
}

// Config is the configuration of a service. A running service can take a new one as
// long as the address stays. The service owns its Keys, and closes them when
// they are no longer needed.
type Config struct {
	Keys       credential.Keys
	Strategy   selection.Strategy
	Program    string         // that says what Strategy should be; empty: none does
	Room       selection.Room // for introduction points in a descriptor
	Avoid      relayset.Set   // relays whose points are used only if there are no others
	Prefer     relayset.Set   // relays whose points an instance has published first, best first
	Ordinary   bool           // upload where and when an ordinary tor would
	Instances  []Instance
	FetchEvery time.Duration                 // how often an instance is fetched while it answers; 0: leave that to the backend.Set
	Clients    []descriptor.AuthorizedClient // the only ones who can read the descriptor; everybody if none
	ClientsDir string                        // where Clients were read, for Service.Authorize; empty if everybody may
	CAA        []descriptor.CAA
	// CAACritical says that an authority that cannot read CAA must not issue.
	CAACritical bool
	Visits      Visits // of the public address
	// Hosted is for one of thousands of addresses that share instances: it publishes as
	// seldom as clients allow, and not when all others do.
	Hosted bool
	Shard  string // that the instances are of, for their events, if it is Hosted
	// Reclaim publishes above another machine that has published: the service is the active
	// one of two, the other of which then ends.
	Reclaim bool
	// Withdrawn publishes descriptors without introduction points in the place of those
	// that HSDirs may have, so that clients who ask find nobody.
	Withdrawn bool
	// Resume goes on from what the record says that HSDirs have: what an earlier process or
	// another manager published is published again when it is due, is pending or should be
	// otherwise, and not before. A Hosted service does so anyway.
	Resume bool
	// Quiet is for an address that is none of the operator's services: its events are for
	// debugging alone.
	Quiet bool
}

// Uploader uploads editions, as *hsdir.UploadQueue does: it returns at once,
// retries unanswered uploads, and reports those that an HSDir rejected to the caller.
type Uploader interface {
	Upload(hsdir.Upload)
	Cancel(descriptor.Address)
}

// Fetcher asks an HSDir for the service's own descriptor, as *hsdir.Fetcher does.
type Fetcher interface {
	AskOuter(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, hsdir [20]byte, now time.Time) (hsdir.FetchResult, error)
}

// Store keeps the record of a service, as *state.DB does. Where managers share it, SwapService
// returns an error that wraps state.ErrFenced when the record is another owner's or term's,
// and in a term nobody but the service writes the record.
type Store interface {
	Service(descriptor.Address) (record state.Service, version uint64, err error)
	SwapService(ctx context.Context, a descriptor.Address, version uint64, record state.Service) (uint64, error)
}

// Counts counts uploads, of one slot each.
type Counts struct {
	Held  atomic.Uint64 // that had to wait, as no counter was reserved for them
	Stale atomic.Uint64 // that waited, and were dropped as another manager publishes the service
}

// Env is shared by all services.
type Env struct {
	Consensus backend.Source
	Backends  *backend.Set
	Fetcher   Fetcher
	// Uploads returns the current upload queue of a service: each tor has one.
	Uploads func(descriptor.Address) Uploader
	Store   Store
	// Reserve is for how long one of several managers reserves revision counters before it
	// uses them: for as long a service goes on while Store does not answer, and no longer.
	// 0: there is one manager, which goes on anyway.
	Reserve time.Duration
	// Awake reports whether uploads may be launched: not from when the process was stopped
	// for a while until it has looked whether its services are still its own. It is called
	// often, by many goroutines, and returns at once. nil: they always may.
	Awake func() bool
	// Fenced is told, once, that another manager publishes a service now, which then does
	// nothing any more. It does not wait for the service's end. It may be nil.
	Fenced func(descriptor.Address)
	// Counts, if not nil, counts what became of uploads that had to wait for Store.
	Counts *Counts
	// Gates bound how many services have their custodians certify at once; nil: nothing does.
	Gates  *credential.Gates
	Record event.Recorder
	Now    func() time.Time // nil stands for time.Now

	// For visits of the public address; nil: there are none.
	Visitor Visitor
	// Checked returns the last result of the checks of an instance's own address; nil:
	// none are made.
	Checked func(descriptor.Address) health.Result
	// Probe returns what is known of the probe address of an instance; nil: none has one.
	Probe func(descriptor.Address) ProbePath
	// Advise asks the program of a strategy, as advice.Run does; needed if a service has one.
	Advise advice.Asker
	// Country returns the country of a relay's address, as (*tor.Countries).Of does: at
	// once. nil: none is known.
	Country func(netip.Addr) (code string, open bool)
}

// Service keeps the master descriptors of one public address published.
type Service struct {
	address descriptor.Address
	env     Env
	woken   chan struct{}  // holds a token when the loop has something to do
	begun   atomic.Bool    // Run was called
	fenced  atomic.Bool    // another manager publishes it
	calls   sync.WaitGroup // in flight

	inbox inbox

	mu sync.Mutex // held by the loop, except while it waits; protects the fields below

	cfg       Config
	keys      *credential.Keeper
	instances *backend.Subscription
	uploads   Uploader // that the last edition was handed to
	state     State
	counters  counters
	record    record
	readback  readback
	visits    visits
	report    report
	drained   drained
	troubles  troubles
	advised   advised
	hearsay   hearsay // of an ordinary service
	started   time.Time
	rounds    uint64
	lastRound time.Time
	jumps     int       // clock jumps that were handled
	urgent    uint64    // urgent changes that plans heeded
	waiting   time.Time // View.Waiting
	behind    behind
	replan    bool      // the next turn plans
	step      bool      // the next turn advances the editions
	plan      Plan      // the last
	next      time.Time // when the loop plans even without an event
}

// NewService returns a service that does nothing until Run.
func NewService(cfg Config, env Env) *Service {
	if env.Now == nil {
		env.Now = time.Now
	}
	s := &Service{address: cfg.Keys.Custodian.Address(), env: env, cfg: cfg, woken: make(chan struct{}, 1), replan: true}
	s.state = State{Editions: map[descriptor.Period]*Edition{}}
	s.counters = counters{}
	s.troubles = troubles{}
	if cfg.Quiet {
		record := env.Record
		s.env.Record = func(e event.Event) { e.Level = slog.LevelDebug; record(e) }
	}
	s.keys = credential.New(cfg.Keys, credential.Env{Service: s.address, Record: s.env.Record, Gates: s.env.Gates, Post: func(f func(time.Time)) { s.post(f) }})
	return s
}

// Address returns the public address.
func (s *Service) Address() descriptor.Address { return s.address }

// Run keeps the descriptors published until ctx ends: it plans whenever the
// consensus, an instance, a slot or the configuration changed, or something is due.
// Published descriptors stay.
func (s *Service) Run(ctx context.Context) {
	// So that the stacks of ten thousand waiting services stay small, the loop waits for
	// one channel, and what takes more is done on other stacks, which are freed afterwards.
	done := make(chan struct{})
	timer := time.AfterFunc(time.Hour, s.look)
	defer timer.Stop()
	defer context.AfterFunc(ctx, s.look)()
	begin := func() {
		s.begin(ctx)
		done <- struct{}{}
	}
	turn := func() {
		now := s.env.Now()
		timer.Reset(s.turn(ctx, now).Sub(now))
		done <- struct{}{}
	}
	go begin()
	<-done
	defer s.end()
	for ctx.Err() == nil {
		turns <- struct{}{}
		go turn()
		<-done
		<-turns
		<-s.woken
	}
}

// look has the loop look whether something is due.
func (s *Service) look() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// turns has a token for each turn that is made now, in the whole process. A turn waits
// for nothing, so more at a time gain nothing, and an hourly consensus has all services
// make one: ten thousand stacks of 16 KiB.
var turns = make(chan struct{}, 2*runtime.GOMAXPROCS(0))

// begin restores the stored record and subscribes to the instances.
func (s *Service) begin(ctx context.Context) {
	s.begun.Store(true)
	read := s.read(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = s.env.Now()
	s.behind.unseen, s.behind.stale = s.started, s.started
	s.restore(read)
	s.watchLocked()
}

// Watch has the instances watched before Run, so that it begins with what is known of them.
func (s *Service) Watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchLocked()
}

func (s *Service) watchLocked() {
	if s.instances == nil {
		s.instances = s.env.Backends.Subscribe(s.address, s.cfg.Watched(), s.cfg.FetchEvery, s.wakePlan)
	}
}

// Unwatch is the end of a service that is not to Run: it needs its instances no more.
func (s *Service) Unwatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instances != nil {
		s.instances.Close()
	}
}

// Watched lists the instances for a backend.Set.
func (cfg Config) Watched() (list []backend.Instance) {
	for _, i := range cfg.Instances {
		list = append(list, backend.Instance{Name: i.Name, Address: i.Address, Client: i.Client, Spec: i.Check, CheckClient: i.CheckClient, Quiet: cfg.Quiet, Shard: cfg.Shard})
	}
	return list
}

// turn handles the results that arrived, plans, and carries the plan out. It returns
// when the next turn is due if no event comes first.
func (s *Service) turn(ctx context.Context, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, take := range s.inbox.take() {
		take(now)
	}
	if s.fenced.Load() {
		return now.Add(time.Hour)
	}
	if s.env.Reserve > 0 && s.env.Awake != nil && !s.env.Awake() {
		s.doubt()
		s.next = now.Add(consensusWait)
		return s.next
	}
	if !s.replan && !s.record.unread.Load() && now.Before(s.next) {
		if s.step && s.plan.Next.After(now) {
			s.step = false
			s.advance(ctx, now)
			s.next = s.due(now)
		}
		return s.beside(ctx, now)
	}
	s.replan, s.step = false, false
	s.followProgram(ctx)
	s.rounds++
	s.lastRound = now
	c, missing := s.env.Consensus.Consensus()
	if s.cfg.Ordinary {
		c = s.hearsay.take(now, c, s.report.seen.seed())
	} else {
		s.hearsay = hearsay{}
	}
	view, err := s.view(now, c)
	if c != nil && err == nil {
		s.credentials(now, c, &view)
	}
	if c == nil && !errors.Is(missing, consensus.ErrNone) { // else tor is still fetching one
		err = missing
	}
	s.troubles.set(troubleNetwork, err)
	if c == nil || err != nil {
		s.next = now.Add(consensusWait)
		s.tellRound(view)
		return s.next
	}
	if s.record.unread.Load() {
		s.lookAgain(ctx, now)
		s.next = now.Add(consensusWait)
		if s.record.retryAt.After(now) {
			s.next = times.Earlier(s.next, s.record.retryAt)
		}
		s.tellRound(view)
		return s.next
	}
	last := s.plan
	failpoint.Reach(failpoint.Plan)
	plan := makePlan(view, s.state)
	if s.env.Reserve > 0 && s.env.Now().Round(0).Sub(now.Round(0)) > pausedFor { // the process was stopped meanwhile
		s.doubt()
		return now
	}
	s.plan = plan
	switch {
	case s.plan.Waiting == "":
		s.waiting = time.Time{}
	case s.waiting.IsZero():
		s.waiting = now
	}
	if s.plan.heeds() {
		s.urgent = view.Instances.Urgent
	}
	s.tellProgram(&s.plan)
	if s.plan.Waiting != "" {
		s.plan.Targets, s.plan.Contents, s.plan.Left, s.plan.Thefts = last.Targets, last.Contents, last.Left, last.Thefts // the status does not blink
		s.plan.Out, s.plan.Down, s.plan.Panic, s.plan.Lifted = last.Out, last.Down, last.Panic, last.Lifted
	}
	s.carryOut(ctx, now, view.Instances)
	s.visit(ctx, now, c)
	s.readBack(ctx, now, c)
	s.forget(view)
	s.tellRound(view)
	s.next = s.due(now)
	return s.beside(ctx, now)
}

// beside does what needs no plan: it reads a hosted service's descriptor back if that is
// due. It returns when the next turn is.
func (s *Service) beside(ctx context.Context, now time.Time) time.Time {
	at := s.readback.next()
	if !s.cfg.Hosted || at.IsZero() {
		return s.next
	}
	if !now.Before(at) {
		if c, _ := s.env.Consensus.Consensus(); c != nil {
			s.readBack(ctx, now, c)
		}
		at = s.next
	}
	return times.Earlier(s.next, at)
}

// consensusWait is how often a service checks again while there is no consensus.
const consensusWait = 5 * time.Second

// forget drops cached state that no later turn needs.
func (s *Service) forget(v View) {
	over := func(p descriptor.Period) bool {
		return p != v.Targets[0].Ring.Period && p != v.Targets[1].Ring.Period
	}
	var used []*credential.Credential
	for p, e := range s.state.Editions {
		if over(p) {
			e.superseded.Store(true)
			delete(s.state.Editions, p)
		} else {
			used = append(used, e.Credential)
			e.Credential.Forget(e.Built) // which its descriptors are made at, however late
		}
	}
	if len(s.state.Editions) > 0 {
		maps.DeleteFunc(s.state.Before, func(p descriptor.Period, _ *past) bool { return over(p) || s.state.Editions[p] != nil })
	}
	s.keys.Forget(over, used)
	s.counters.forget(v.Targets[0].Ring.Period)
	s.record.ceilings.forget(v.Targets[0].Ring.Period)
}

// due returns when the next turn is due without an event.
func (s *Service) due(now time.Time) time.Time {
	next := now.Add(time.Hour)
	for _, at := range []time.Time{s.plan.Next, s.keys.Due(now), s.record.due(now), s.renewal(), s.readback.dueIn(s.cfg), s.visits.next(), s.signingDue(now), s.hearsay.next(s.report.seen.seed())} {
		if !at.IsZero() {
			next = times.Earlier(next, at)
		}
	}
	if at := s.started.Add(startPatience); at.After(now) {
		next = times.Earlier(next, at)
	}
	return times.Later(next, now.Add(shortestWait))
}

// shortestWait keeps a bug in due times from becoming a busy loop.
const shortestWait = 100 * time.Millisecond

// endTimeout is how long the end waits for a hung store.
const endTimeout = 5 * time.Second

// end closes everything that the service owns, and returns within a bounded time even
// if some of it hangs. The status is still served meanwhile.
func (s *Service) end() {
	s.mu.Lock()
	for _, take := range s.inbox.close() {
		take(s.env.Now())
	}
	if s.uploads != nil {
		s.uploads.Cancel(s.address)
	}
	s.instances.Close()
	s.mu.Unlock()
	returned := make(chan struct{})
	go func() { defer close(returned); s.calls.Wait() }()
	timer := time.NewTimer(endTimeout)
	defer timer.Stop()
	select {
	case <-returned:
		if s.env.Reserve > 0 {
			s.release(timer.C)
		}
	case <-timer.C:
		s.tell(event.Warning, slog.LevelWarn, "the store does not answer, and is left behind")
	}
	s.keys.Close()
}

// Moved tells the service that another tor's queue now uploads for it.
func (s *Service) Moved() { s.wakePlan() }

// Reconfigure takes a new configuration, for the same address. After the end of Run
// it closes the keys of cfg.
func (s *Service) Reconfigure(cfg Config) {
	taken := s.post(func(time.Time) {
		s.keys.Replace(cfg.Keys)
		s.troubles.set(troubleClients, nil)
		s.rename(cfg.Instances)
		s.cfg = cfg
		if s.instances != nil {
			s.instances.Update(cfg.Watched(), cfg.FetchEvery)
		}
	})
	if taken {
		return
	}
	if err := cfg.Keys.Close(); err != nil {
		s.tell(event.Custody, slog.LevelWarn, "closing keys that came too late", slog.Any("error", err))
	}
}

// Authorize takes other clients. With an error the last ones stay authorized, and the
// status tells it.
func (s *Service) Authorize(clients []descriptor.AuthorizedClient, err error) {
	s.post(func(time.Time) {
		s.troubles.set(troubleClients, err)
		if err == nil {
			s.cfg.Clients = clients
		}
	})
}

// rename applies new names of the instances. Published points of an instance
// stay its own under another name, and are not those of another instance that
// has its name now.
func (s *Service) rename(instances []Instance) {
	names := make(map[string]string) // old name to new, of those that stay
	for _, i := range instances {
		for _, old := range s.cfg.Instances {
			if old.Address == i.Address {
				names[old.Name] = i.Name
			}
		}
	}
	var kept []selection.Candidate
	for _, c := range s.state.Published {
		if name, stays := names[c.Instance]; stays {
			c.Instance = name
			kept = append(kept, c)
		}
	}
	s.state.Published, s.state.Shares = kept, nil
}

// tell records an event of the service.
func (s *Service) tell(kind event.Kind, level slog.Level, text string, attrs ...slog.Attr) {
	s.env.Record(event.Event{At: s.env.Now(), Kind: kind, Level: level, Service: s.address, Text: text, Attrs: attrs})
}

// Status tells what the service is doing now.
func (s *Service) Status() status.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describe(s.env.Now())
}

// Published reports whether an HSDir has confirmed the descriptor that clients fetch now,
// this process's or, of a hosted service, one that it goes on from.
func (s *Service) Published() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.state.Editions[s.report.seen.current().Keys.Period]
	return e != nil && !e.heard.IsZero() || s.goesOn() != nil
}

// goesOn returns what an earlier process published of the descriptor that clients fetch
// now, if a hosted service goes on from that; else nil.
func (s *Service) goesOn() *past {
	current := s.report.seen.current().Keys.Period
	stored := func(t Target) bool { return t.stored && t.Keys.Period == current } // of this turn, or of one before the last consensus
	if s.state.Editions[current] != nil || !slices.ContainsFunc(s.plan.Targets, stored) {
		return nil
	}
	return s.state.Before[current]
}

// Plan returns the last plan.
func (s *Service) Plan() Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan
}
