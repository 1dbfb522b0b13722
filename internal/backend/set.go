package backend

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/times"
)

// Instance is a backend that a subscriber uses.
type Instance struct {
	Name    string // the subscriber's name for it
	Address descriptor.Address
	Client  *descriptor.ClientKey // nil for a descriptor that anybody may read
	// Spec is how it is checked, and CheckClient the key for where Spec connects.
	Spec        health.Spec
	CheckClient *descriptor.ClientKey
	// Quiet says that the subscriber is none of the operator's services, and events
	// do not mention it.
	Quiet bool
	// Shard is the shard that the subscriber is a customer of, for the events; empty if of
	// none.
	Shard string
}

// Fetcher fetches descriptors, as *hsdir.Fetcher does: it is safe for concurrent
// use, limits its fetches in flight, and returns when ctx ends.
type Fetcher interface {
	Fetch(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, client *descriptor.ClientKey, floor uint64, now time.Time) (hsdir.FetchResult, error)
}

// Source provides the current consensus, as *consensus.Watcher does.
type Source interface {
	Consensus() (*hsdir.Consensus, error)
	Subscribe() (changed <-chan struct{}, unsubscribe func())
}

// Config is the configuration of a Set.
type Config struct {
	Consensus Source
	Fetcher   Fetcher
	Checks    Checks // nil: nothing is checked
	Store     Store
	Words     WordStore // nil: Store has the operator's words
	Record    event.Recorder
	Now       func() time.Time // nil stands for time.Now
}

// Intervals between fetches of an instance that answers, while no subscriber asks
// for one: a balancer should make no more than one fetch a second on average.
// On a testing network a day lasts minutes.
const (
	fetchShortest = 2 * time.Minute
	fetchRate     = time.Second
	fetchLongest  = 50 * time.Minute // so that a dead instance is noticed while HSDirs still have its descriptor
	fetchTesting  = 15 * time.Second
)

// dawnLasts is how long after the beginning of a period, or after an instance was
// added, points count as seen at the same time: when an instance's descriptor
// arrives is random, and must not decide which of two has a relay. For as long, at
// most, the other instances are fetched before a new key is claimed for one.
const dawnLasts = 30 * time.Second

// Set watches instances. It is safe for concurrent use.
type Set struct {
	cfg   Config
	poke  chan struct{} // holds a token when there is something new to do
	fetch sync.WaitGroup
	saver *saver
	words *words

	mu            sync.Mutex // protects the fields below
	watches       map[descriptor.Address]*watch
	subscriptions map[*Subscription]bool
	consensus     *hsdir.Consensus // that epoch is of; nil before there was one
	epoch         epoch
	dawn          time.Time
	planned       time.Time // when the clock is checked next
	jumps         int       // of the clock, ahead
	claims        Claims
	loads         map[descriptor.Address]health.Load // as told; some no longer count
	version       uint64
	decoder       descriptor.Decoder
}

// epoch determines where an instance's descriptor is and which one it is.
// When it changes, all fetched descriptors may soon be stale.
type epoch struct {
	period descriptor.Period
	random [32]byte // of the ring that clients fetch from
	first  descriptor.Period
}

// watch is one instance with its users.
type watch struct {
	now       *Backend
	users     map[*Subscription]*Instance // which their subscriptions have
	checks    map[health.Spec]*checked
	changes   *rate.Limiter // of the offer
	retry     backoff.Backoff
	keys      descriptor.PeriodKeys // of the period asked for last
	asking    bool
	wrongKeys int       // client keys that did not open the descriptor; the next is tried
	listened  time.Time // since when the other instances are fetched to find the owner of its new keys; else zero
}

// New returns a Set that watches nothing until Run.
func New(cfg Config) *Set {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Words == nil {
		cfg.Words = cfg.Store
	}
	return &Set{
		cfg: cfg, poke: make(chan struct{}, 1), watches: map[descriptor.Address]*watch{},
		subscriptions: map[*Subscription]bool{}, claims: Claims{}, loads: map[descriptor.Address]health.Load{}, saver: newSaver(cfg.Store), words: newWords(cfg.Words),
	}
}

// Run fetches until ctx ends.
func (s *Set) Run(ctx context.Context) {
	changed, unsubscribe := s.cfg.Consensus.Subscribe()
	defer unsubscribe()
	defer s.fetch.Wait()
	var saving sync.WaitGroup
	defer saving.Wait()
	saving.Go(func() { s.saver.run(ctx, s.notifyAll) })
	for another := false; ctx.Err() == nil; {
		next := s.turn(ctx, s.cfg.Now())
		if another {
			s.notifyAll()
		}
		another = s.wait(ctx, changed, next)
	}
}

// turn starts the fetches that are due, and returns when the next turn is.
func (s *Set) turn(ctx context.Context, now time.Time) (next time.Time) {
	c, _ := s.cfg.Consensus.Consensus()
	s.mu.Lock()
	defer s.mu.Unlock()
	next = now.Add(time.Hour)
	if s.enter(now, c); s.consensus == nil {
		return next
	}
	s.settle(now)
	s.noteChecks(now)
	for a, w := range s.watches {
		switch {
		case w.asking:
		case now.Before(w.now.Due):
			next = times.Earlier(next, w.now.Due)
		default:
			s.ask(ctx, now, a, w)
		}
	}
	for _, w := range s.watches {
		if !w.listened.IsZero() {
			next = times.Earlier(next, w.listened.Add(dawnLasts))
		}
	}
	return times.Later(next, now.Add(shortestTurn))
}

// shortestTurn keeps a bug in due times from becoming a busy loop.
const shortestTurn = 100 * time.Millisecond

// enter makes every instance due if c began a new epoch, since an instance has
// other introduction points in its new descriptor and closes the old ones, or if
// this turn is late. It reports whether it did. The caller
// holds s.mu.
func (s *Set) enter(now time.Time, c *hsdir.Consensus) bool {
	if c == nil || c.Current().Len() == 0 || s.consensus != nil && c.ValidAfter.Before(s.consensus.ValidAfter) {
		return false // or the caller looked before another did
	}
	s.consensus = c
	current := c.Current()
	e := epoch{period: current.Period, random: current.SharedRandom, first: c.Period(hsdir.FirstRole)}
	late := s.late(now)
	if e == s.epoch && !late {
		return false
	}
	if s.epoch != (epoch{}) && e != s.epoch {
		s.cfg.Record(event.Event{At: now, Kind: event.Period, Text: "new period or shared random value: fetching every instance again",
			Attrs: []slog.Attr{slog.Uint64("period", e.period.Number), slog.Time("valid_after", c.ValidAfter)}})
	}
	if e.period != s.epoch.period {
		s.claims, s.dawn = s.saver.loadClaims(e.period), now
		for a, w := range s.watches {
			w.listened = time.Time{}
			s.contest(a, w)
		}
	}
	s.epoch, s.planned = e, now
	for _, w := range s.watches {
		if !w.asking {
			w.update(func(b *Backend) { b.Due = now })
		}
	}
	if late {
		s.jumped()
	}
	return true
}

// settle claims new keys for the instances that offer them, once the instances
// used together with these have been fetched, too: the owner of a key may be one
// of them.
func (s *Set) settle(now time.Time) {
	var ready []descriptor.Address
	for a, w := range s.watches {
		if len(s.claims.unclaimed(a, w.now.Offer)) == 0 {
			w.listened = time.Time{}
		} else if s.listen(now, a, w) {
			ready = append(ready, a)
		}
	}
	if len(ready) == 0 {
		return
	}
	for _, a := range ready {
		w := s.watches[a]
		w.listened = time.Time{}
		for _, key := range s.claims.unclaimed(a, w.now.Offer) {
			s.claims.Note(key, s.offering(key))
		}
	}
	for a, w := range s.watches {
		s.contest(a, w)
	}
	s.saver.setClaims(s.epoch.period, s.claims)
}

// listen fetches the instances that are used together with w, which offers new
// keys, and reports whether all of them have answered, or had time enough.
func (s *Set) listen(now time.Time, a descriptor.Address, w *watch) bool {
	first := w.listened.IsZero()
	if first {
		w.listened = now
	}
	waiting := false
	for other := range s.together(w) {
		o := s.watches[other]
		if other == a || len(s.claims.unclaimed(other, o.now.Offer)) > 0 || !o.now.Answered.Before(w.listened) {
			continue
		}
		if waiting = true; first && !o.asking && now.Before(o.now.Due) {
			o.update(func(b *Backend) { b.Due = now })
		}
	}
	return !waiting || now.Sub(w.listened) >= dawnLasts
}

// together returns the instances that some subscriber uses together with w.
func (s *Set) together(w *watch) map[descriptor.Address]bool {
	all := make(map[descriptor.Address]bool)
	for sub := range w.users {
		for _, i := range sub.instances {
			all[i.Address] = true
		}
	}
	return all
}

// update replaces the Backend of w by a changed copy.
func (w *watch) update(change func(b *Backend)) {
	b := *w.now
	change(&b)
	w.now = &b
}

// changed wakes the users of w.
func (s *Set) changed(w *watch) {
	s.version++
	w.update(func(b *Backend) { b.Version = s.version })
	for sub := range w.users {
		sub.wake()
	}
}

// tell records that an instance's state changed.
func (s *Set) tell(now time.Time, w *watch, is, was any) {
	e := w.event(event.Event{At: now, Kind: event.InstanceState, Text: "instance"})
	e.Attrs = append(e.Attrs, slog.Any("state", is), slog.Any("was", was), slog.Int("points", w.now.Usable(now)))
	if w.now.Err != nil {
		e.Attrs = append(e.Attrs, slog.Any("error", w.now.Err))
	}
	s.cfg.Record(e)
}

// event fills in what e is about: the instance, which several services may use, under
// different names.
func (w *watch) event(e event.Event) event.Event {
	names, shards, services := make(map[string]bool), make(map[string]bool), 0
	for sub, i := range w.users {
		switch {
		case i.Quiet:
			continue
		case i.Shard != "":
			shards[i.Shard] = true
		default:
			services++
			e.Service = sub.service
		}
		names[i.Name] = true
	}
	name := w.now.Address.Short()
	if len(names) == 1 {
		name = slices.Collect(maps.Keys(names))[0]
	}
	e.Attrs = append(e.Attrs, slog.String("instance", name))
	if services+len(shards) > 1 {
		e.Service = descriptor.Address{}
	}
	if services > 1 || services > 0 && len(shards) > 0 {
		e.Attrs = append(e.Attrs, slog.Int("services", services))
	}
	if len(shards) > 0 {
		e.Attrs = append(e.Attrs, slog.String("shard", strings.Join(slices.Sorted(maps.Keys(shards)), ", ")))
	}
	return e
}

// notifyAll wakes every subscriber.
func (s *Set) notifyAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.subscriptions {
		sub.wake()
	}
}

// wake has Run look for something to do.
func (s *Set) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}
