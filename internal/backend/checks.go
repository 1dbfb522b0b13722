package backend

import (
	"cmp"
	"log/slog"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/check"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
)

// Checks checks instances, as *check.Runner does.
type Checks interface {
	Watch(a descriptor.Address, spec health.Spec, client *descriptor.ClientKey, earlier *check.Watch, changed func()) *check.Watch
}

// checked is the check of an instance by one Spec, for all users of that.
type checked struct {
	users  int
	client *descriptor.ClientKey
	watch  *check.Watch // nil while the instance is not to be checked
	last   *check.Watch // the one before, whose state still counts
	news   atomic.Bool  // its state changed, and the users do not know yet
	told   health.State // in the last event
}

// unchecked is the state of an instance that is not checked.
var unchecked = health.State{Operating: health.Unchecked, Admin: health.Ready, Weight: 1}

// use has w checked as i says, after it was checked as before says, if that is not nil.
// The caller holds s.mu.
func (s *Set) use(w *watch, i Instance, before *checked) {
	if s.cfg.Checks == nil || i.Spec.Kind == "" || i.Spec.Kind == health.None {
		return
	}
	c := w.checks[i.Spec]
	if c == nil {
		c = &checked{told: unchecked}
		if before != nil {
			c.last, c.told = before.watch, before.told
		}
		w.checks[i.Spec] = c
	}
	if c.users++; c.client == nil {
		c.client = i.CheckClient
	}
	s.pause(w)
}

// unuse undoes use.
func (s *Set) unuse(w *watch, i Instance) {
	c := w.checks[i.Spec]
	if c == nil {
		return
	}
	if c.users--; c.users == 0 {
		c.stop()
		delete(w.checks, i.Spec)
	}
}

// reuse has w checked as i says, as was said before.
func (s *Set) reuse(w *watch, before, i Instance) {
	if before.Spec == i.Spec && sameKey(before.CheckClient, i.CheckClient) {
		return
	}
	if c := w.checks[before.Spec]; c != nil && before.Spec == i.Spec {
		c.stop() // the next one has the other key
		c.client = i.CheckClient
		s.pause(w)
		return
	}
	s.use(w, i, w.checks[before.Spec])
	s.unuse(w, before)
}

// pause starts the checks of w, or stops them while the operator has it in maintenance.
func (s *Set) pause(w *watch) {
	for spec, c := range w.checks {
		switch maint := w.now.Word.Admin == health.Maint; {
		case maint:
			c.stop()
		case c.watch == nil:
			c.watch = s.cfg.Checks.Watch(w.now.Address, spec, c.client, c.last, func() {
				c.news.Store(true)
				s.wake()
			})
		}
	}
}

func (c *checked) stop() {
	if c.watch != nil {
		c.watch.Close()
		c.watch, c.last = nil, c.watch
	}
}

// health returns what the checks of w by a Spec have found.
func (w *watch) health(spec health.Spec) health.State {
	if c := w.checks[spec]; c != nil && c.watch != nil {
		return c.watch.State()
	}
	return unchecked
}

// hurry has an instance that is out checked at once: it has something new.
func (w *watch) hurry() {
	for _, c := range w.checks {
		if c.watch != nil {
			if state := c.watch.State(); state.Out() {
				c.watch.Hurry()
			}
		}
	}
}

// Forgive forgets how often an instance was down, and ends what it is held down for.
func (s *Set) Forgive(a descriptor.Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[a]; w != nil {
		forgive(w)
	}
}

func forgive(w *watch) {
	for _, c := range w.checks {
		if c.watch != nil {
			c.watch.Forgive()
		}
	}
}

// noteChecks wakes the users of instances whose checks found something new.
func (s *Set) noteChecks(now time.Time) {
	for _, w := range s.watches {
		for spec, c := range w.checks {
			if !c.news.Swap(false) || c.watch == nil {
				continue
			}
			is := w.health(spec)
			s.tellCheck(now, w, is, c.told)
			c.told = is
			s.urgent(w)
		}
	}
}

// urgent wakes the users of w, who should not wait for fetches.
func (s *Set) urgent(w *watch) {
	w.update(func(b *Backend) { b.Urgent++ })
	s.changed(w)
}

// tellCheck records what checks found about an instance.
func (s *Set) tellCheck(now time.Time, w *watch, is, was health.State) {
	e := w.event(event.Event{At: now, Kind: event.Check, Text: "checks of an instance"})
	if is.Out() == was.Out() && is.Doubt == was.Doubt && is.Admin == was.Admin && is.Weight == was.Weight && len(is.Dead) == len(was.Dead) {
		e.Level = slog.LevelDebug
	}
	e.Attrs = append(e.Attrs, slog.String("state", string(is.Operating)))
	if is.Doubt {
		e.Level = slog.LevelWarn
		e.Attrs = append(e.Attrs, slog.String("panic", "it fails, and so does everything else: our own tor may be the cause, and it stays in use"))
	}
	if is.Admin != was.Admin || is.Weight != was.Weight {
		e.Attrs = append(e.Attrs, slog.String("agent", string(is.Admin)), slog.Float64("weight", is.Weight))
	}
	if len(is.Dead) > 0 || len(was.Dead) > 0 {
		e.Attrs = append(e.Attrs, slog.Int("dead_points", len(is.Dead)))
	}
	if err := is.Last.Err; err != nil && is.Out() {
		e.Attrs = append(e.Attrs, slog.Any("error", err))
	}
	if is.Text != "" && is.Text != was.Text {
		e.Attrs = append(e.Attrs, slog.String("text", is.Text))
	}
	s.cfg.Record(e)
}

func sameKey(a, b *descriptor.ClientKey) bool {
	return a == b || a != nil && b != nil && a.Equal(b)
}

// worse returns the administrative state with precedence.
func worse(a, b health.Admin) health.Admin {
	rank := map[health.Admin]int{health.Drain: 1, health.Maint: 2}
	if rank[b] > rank[a] {
		return b
	}
	return cmp.Or(a, health.Ready)
}

// LastCheck returns the result of the last check of an instance's own address by
// circuits of its own, the zero Result if there was none. A circuit that was there says
// nothing about introductions.
func (s *Set) LastCheck(a descriptor.Address) (last health.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watches[a]
	if w == nil {
		return last
	}
	for spec := range w.checks {
		if r := w.health(spec).Fresh; spec.Address == (descriptor.Address{}) && r.Ended.After(last.Ended) {
			last = r
		}
	}
	return last
}
