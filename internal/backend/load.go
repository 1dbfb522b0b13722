package backend

import (
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
)

// SetLoad says how loaded an instance is; the zero Load that nobody knows. It is not
// stored: a load of before a restart says little about now.
func (s *Set) SetLoad(a descriptor.Address, l health.Load) {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.loads[a]
	s.loads[a] = l
	if l == (health.Load{}) {
		delete(s.loads, a)
	}
	w := s.watches[a]
	if w == nil {
		return
	}
	w.update(func(b *Backend) { b.Load = l })
	e := w.event(event.Event{At: now, Kind: event.Operator, Level: slog.LevelDebug, Text: "the load of an instance was told"})
	if l != (health.Load{}) {
		e.Attrs = append(e.Attrs, slog.Float64("load", l.Value), slog.Duration("for", l.Until.Sub(now).Round(time.Second)))
	}
	s.cfg.Record(e)
	if l.Differs(was) || was.At(now) == nil {
		s.changed(w)
	}
}
