package balance

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/status"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

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
