package standby

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/times"
)

// Watcher follows services: it reads their public descriptors, and has the Runner publish
// for those that it takes over. It is safe for concurrent use.
type Watcher struct {
	cfg Config

	mu       sync.Mutex // protects the fields below
	ctx      context.Context
	wanted   []Service // until Run
	follows  map[descriptor.Address]*follow
	leaving  sync.WaitGroup
	finished bool
}

// follow is the state of one service. Its own goroutine has it, but for what mu protects.
type follow struct {
	w       *Watcher
	address descriptor.Address
	poke    chan struct{} // holds a token when HSDirs are to be asked soon
	cancel  context.CancelFunc
	ended   chan struct{}

	period  descriptor.Period // that clients fetched when the consensus last changed
	looked  time.Time         // when HSDirs were last asked, with both clocks
	memory  memory
	state   State
	keys    map[descriptor.Period]*custody
	decoder descriptor.Decoder

	mu      sync.Mutex // protects the fields below
	service Service    // of which the Address stays
	read    time.Time  // looked, when HSDirs last showed something, and it was acted upon
	now     Status
}

// Status is what is known of one service.
type Status struct {
	Address descriptor.Address
	Taken   bool      // this machine publishes
	Since   time.Time // when it last began or ended to; zero if it never did
	Why     Reason    // of that
	Counter uint64    // published last; 0 if nothing was seen
	Made    time.Time // when that was
	Read    time.Time // when HSDirs were last asked
	Until   time.Time // when this machine takes over if nothing else is read; zero if it does not
	Alarm   string    // empty if there is none
}

// New returns a Watcher that does nothing until Run.
func New(cfg Config) *Watcher {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming
	}
	return &Watcher{cfg: cfg, follows: make(map[descriptor.Address]*follow)}
}

// Run follows the services of Set until ctx ends. Then it stops what it has taken over:
// what is published stays at HSDirs.
func (w *Watcher) Run(ctx context.Context) {
	w.mu.Lock()
	w.ctx = ctx
	w.setLocked(w.wanted)
	w.mu.Unlock()
	<-ctx.Done()
	w.mu.Lock()
	w.finished = true
	w.mu.Unlock()
	w.leaving.Wait()
}

// Set replaces the services. One that stays goes on from what was read of it; one that is
// gone is stopped if it was taken over, and Set waits for that.
func (w *Watcher) Set(services []Service) {
	w.mu.Lock()
	gone := w.setLocked(services)
	w.mu.Unlock()
	for _, f := range gone {
		<-f.ended
	}
}

func (w *Watcher) setLocked(services []Service) (gone []*follow) {
	if w.wanted = services; w.ctx == nil || w.finished {
		return nil
	}
	for a, f := range w.follows {
		if !slices.ContainsFunc(services, func(s Service) bool { return s.Address == a }) {
			f.cancel()
			gone = append(gone, f)
			delete(w.follows, a)
		}
	}
	for _, s := range services {
		if f := w.follows[s.Address]; f != nil {
			f.replace(s)
			continue
		}
		f := &follow{w: w, address: s.Address, service: s, poke: make(chan struct{}, 1), ended: make(chan struct{}), now: Status{Address: s.Address}}
		ctx, cancel := context.WithCancel(w.ctx)
		f.cancel = cancel
		w.follows[s.Address] = f
		w.leaving.Go(func() {
			defer close(f.ended)
			f.run(ctx)
		})
	}
	return gone
}

// Heed looks at an event of a service, as Config.Record's kind of functions do: HSDirs that
// refuse what this machine publishes may have what the active machine does, and are asked
// at once.
func (w *Watcher) Heed(e event.Event) {
	if e.Kind != event.UploadFailed || !slices.ContainsFunc(e.Attrs, refused) {
		return
	}
	w.mu.Lock()
	f := w.follows[e.Service]
	w.mu.Unlock()
	if f != nil && f.status().Taken {
		f.hasten()
	}
}

// Hasten has all services read soon: the heartbeat is another than before.
func (w *Watcher) Hasten() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.follows {
		f.hasten()
	}
}

func (f *follow) hasten() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// refused reports whether the error of an upload is an HSDir's refusal.
func refused(a slog.Attr) bool {
	err, ok := a.Value.Any().(error)
	var failed interface{ Reason() string }
	return ok && errors.As(err, &failed) && failed.Reason() == "UPLOAD_REJECTED"
}

// Awake reports whether HSDirs have shown lately what is published of a service, so that
// an upload which waited cannot be of hours ago: as when the machine slept. It is for
// balance.Env.Awake of services that are taken over.
func (w *Watcher) Awake(a descriptor.Address) bool {
	w.mu.Lock()
	f := w.follows[a]
	w.mu.Unlock()
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return w.watched(f.read, w.cfg.Now())
}

// watched reports whether a reading was lately, whichever clock one asks.
func (w *Watcher) watched(last, now time.Time) bool {
	lately := func(d time.Duration) bool { return d >= -w.cfg.Timing.Every && d <= 3*w.cfg.Timing.Every }
	return lately(now.Sub(last)) && lately(now.Round(0).Sub(last.Round(0)))
}

// Status tells about all services, in no order.
func (w *Watcher) Status() (list []Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.follows {
		list = append(list, f.status())
	}
	return list
}

func (f *follow) status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// replace takes another configuration of the service.
func (f *follow) replace(s Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.service = s
}

// noConsensus is how long to wait for a consensus.
const noConsensus = 5 * time.Second

// run follows the service until ctx ends.
func (f *follow) run(ctx context.Context) {
	t := f.w.cfg.Timing
	defer func() {
		if f.state.Taken {
			f.w.cfg.Runner.Stop(f.address)
		}
	}()
	changed, unsubscribe := f.w.cfg.Consensus.Subscribe()
	defer unsubscribe()
	due, full := time.Now().Add(spread(t)), false
	var poked time.Time
	for {
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
			if c, _ := f.w.cfg.Consensus.Consensus(); c != nil && c.CurrentPeriod() != f.period {
				f.period, due = c.CurrentPeriod(), times.Earlier(due, time.Now().Add(spread(t))) // clients fetch another descriptor
			}
			continue
		case <-f.poke: // HSDirs refuse all at once, so not for each
			timer.Stop()
			due, full = times.Earlier(due, times.Later(time.Now(), poked.Add(t.Confirm))), true
			poked = due
			continue
		case <-timer.C:
		}
		var wait time.Duration
		wait, full = f.turn(ctx, full)
		due = time.Now().Add(wait)
	}
}

// spread returns a wait for not all services to be read at once.
func spread(t Timing) time.Duration { return time.Duration(rand.Int64N(int64(t.Confirm)/2 + 1)) }

// turn reads, decides, and does it. It returns when to do so again, and whether all HSDirs
// are to be asked then.
func (f *follow) turn(ctx context.Context, full bool) (wait time.Duration, again bool) {
	c, _ := f.w.cfg.Consensus.Consensus()
	if c == nil || c.Current().Len() == 0 {
		return noConsensus, full
	}
	t := f.w.cfg.Timing
	f.mu.Lock()
	s := f.service
	f.mu.Unlock()
	v, ok := f.look(ctx, s, c, full)
	if ctx.Err() != nil || !ok {
		return t.Every, full
	}
	before := f.state
	var d Decision
	if d, f.state = Decide(v, f.state, t); !f.act(ctx, s, c, v, d) {
		f.state.Taken, f.state.Since, f.state.Why = before.Taken, before.Since, before.Why
	}
	f.tell(v, d)
	if v.Read.Found || v.Read.Missing {
		f.mu.Lock()
		f.read = f.looked
		f.mu.Unlock()
	}
	if wait = d.Next.Sub(v.Now); wait == t.Every || wait == t.Taken {
		wait = backoff.Jitter(wait)
	}
	return wait, d.Full
}

// look reads, and returns what is known then.
func (f *follow) look(ctx context.Context, s Service, c *hsdir.Consensus, full bool) (View, bool) {
	t, ring := f.w.cfg.Timing, c.Current()
	began := f.w.cfg.Now()
	keys, err := s.Address.Keys(ring.Period)
	if err != nil {
		return View{}, false
	}
	r := read(ctx, f.w.cfg.Fetcher, c, keys, full, began)
	both := f.w.cfg.Now()
	now := both.Round(0)
	v := View{Now: now, Watch: f.w.cfg.Role == Watch, Hosted: s.Hosted, Period: ring.Period, Turn: c.NextPeriod(), Read: r.result(now)}
	if !f.w.watched(began, both) || old(c, now) {
		v.Read = Read{At: now, Full: full} // the machine slept meanwhile, or these are not the HSDirs to ask
		r.best = nil
	}
	if !f.looked.IsZero() && !f.w.watched(f.looked, both) {
		f.memory.woke(now)
	}
	f.looked = both
	decode := func(counter uint64) time.Time { return guessedAt(ring.RunStart, counter) }
	if s.Revision != nil {
		key, err := f.key(ctx, s, ring.Period)
		if v.Unable = err; err == nil || f.keys[ring.Period] != nil {
			decode = func(counter uint64) time.Time { return madeAt(key, ring.RunStart, counter) }
			v.Most = counterAt(key, ring.RunStart, now.Add(t.Ahead))
		}
	}
	if f.w.cfg.Heartbeat != nil {
		v.Beats, v.Beat = true, f.w.cfg.Heartbeat()
		v.Beat.Heard = v.Beat.Heard.Round(0)
	}
	var whole *descriptor.Descriptor
	own := false
	if r.best != nil {
		if f.w.cfg.Runner != nil {
			own = f.w.cfg.Runner.Made(s.Address, Made{ring.Period, r.best.RevisionCounter, r.best.SigningCert.Key()})
		}
		f.decoder.MaxSize = ring.MaxDescriptorSize()
		whole, _ = f.decoder.Decode(r.raw, keys, nil, now) // nil: only clients can read it
	}
	var is *seen
	if v.Read.Found || v.Read.Missing {
		is = f.memory.note(now, ring.Period, r.best, whole, own, decode, 2*t.Every)
	} else {
		is = f.memory.seen[ring.Period]
	}
	var instances backend.View
	if s.View != nil {
		instances = s.View()
		f.memory.points.note(instances, now)
	}
	turned := ring.Period.Start(c.RotationOffset())
	if before := f.memory.seen[ring.Period.Previous()]; before != nil && now.Sub(turned) < c.ValidUntil.Sub(c.ValidAfter) {
		v.Before = before.made
	}
	if is != nil {
		v.Counter, v.Own, v.Made, v.Expires = is.counter, is.own, is.made, is.expires
		if is.readable {
			v.Points = f.memory.points.judge(s, instances, is.points, now, turned)
		}
	}
	return v, true
}

// A clock and the consensus may differ by so much more than tor lets them.
const oldBy = 2 * time.Hour

// old reports whether clients have left the consensus behind long ago, by our clock.
func old(c *hsdir.Consensus, now time.Time) bool {
	return now.After(c.ValidUntil.Add(oldBy)) || now.Before(c.ValidAfter.Add(-oldBy))
}

// custody is the key of the revision counters of a period.
type custody struct {
	key   descriptor.RevisionKey
	asked time.Time
	err   error // of the custodian, when it was last asked; there may be a key from before
}

// keyFor is for how long a custodian's answer is taken to hold.
const keyFor = time.Hour

// key returns the key of the revision counters of a period, and why the custodian does not
// give it any more.
func (f *follow) key(ctx context.Context, s Service, p descriptor.Period) (descriptor.RevisionKey, error) {
	is := f.keys[p]
	if now := f.w.cfg.Now(); is == nil || is.err != nil || now.Sub(is.asked) > keyFor {
		ctx, cancel := context.WithTimeout(ctx, keyTimeout)
		defer cancel()
		if is == nil {
			is = new(custody)
		}
		is.asked = now
		key, err := s.Revision(ctx, p)
		if is.err = err; err == nil {
			if len(f.keys) > keptPeriods || f.keys == nil {
				f.keys = make(map[descriptor.Period]*custody)
			}
			is.key, f.keys[p] = key, is
		}
	}
	return is.key, is.err
}

// keyTimeout is how long a custodian may take.
const keyTimeout = 30 * time.Second

// act carries out a decision, and reports whether it is done.
func (f *follow) act(ctx context.Context, s Service, c *hsdir.Consensus, v View, d Decision) bool {
	cfg := f.w.cfg
	switch d.Action {
	case TakeOver:
		var floors []state.Ceiling
		if d.Why != ReasonResumed {
			floors = f.memory.floors(v.Now, c, func(p descriptor.Period) (descriptor.RevisionKey, error) { return f.key(ctx, s, p) }, cfg.Timing.Ahead)
		}
		if err := cfg.Runner.Start(ctx, s.Address, floors); err != nil {
			f.event(slog.LevelError, "taking over failed", slog.Any("error", err))
			return false
		}
		attrs := []slog.Attr{slog.String("why", string(d.Why))}
		if !v.Made.IsZero() {
			attrs = append(attrs, slog.Duration("made_ago", v.Now.Sub(v.Made).Round(time.Second)))
		}
		f.event(slog.LevelWarn, "taking over", attrs...)
	case Yield:
		cfg.Runner.Stop(s.Address)
		f.event(slog.LevelWarn, "yielding", slog.String("why", string(d.Why)), slog.Time("made", v.Made))
	}
	return true
}

// tell records what is known now, and an alarm that was not there before.
func (f *follow) tell(v View, d Decision) {
	f.mu.Lock()
	before := f.now
	f.now = Status{
		Address: f.address, Taken: f.state.Taken, Since: f.state.Since, Why: f.state.Why, Counter: v.Counter, Made: v.Made, Read: v.Read.At,
		Until: d.Until, Alarm: d.Alarm.Text,
	}
	pending := !d.Next.After(v.Now) // more is known in a moment
	if pending {
		f.now.Alarm = before.Alarm
	}
	f.mu.Unlock()
	switch {
	case pending:
	case d.Alarm.Text == "" && before.Alarm != "":
		f.event(slog.LevelInfo, "no longer: "+before.Alarm)
	case d.Alarm.Text != "" && before.Alarm == "":
		f.event(d.Alarm.Level, d.Alarm.Text)
	}
	if v.Watch && v.Counter > before.Counter && before.Counter > 0 {
		f.event(slog.LevelDebug, "the published descriptor was renewed")
	}
}

func (f *follow) event(level slog.Level, text string, attrs ...slog.Attr) {
	f.w.cfg.Record(event.Event{At: f.w.cfg.Now(), Kind: Kind, Level: level, Service: f.address, Text: text, Attrs: attrs})
}
