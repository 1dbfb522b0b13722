package daemon

import (
	"log/slog"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
)

// What happens to an instance of a shard happens to all of its customers. Their events are
// for debugging one by one; for the log and the history those of one shard, kind and level
// become one after a while, with the number of customers.

// gatherFor is how long events are gathered. An error is told at the next tick.
const gatherFor = time.Minute

// gatherKey is what events that become one have in common.
type gatherKey struct {
	shard string
	kind  event.Kind
	level slog.Level
}

// gathered is the first of some events, with what the others have in common with it.
type gathered struct {
	event.Event
	due       time.Time
	customers map[descriptor.Address]bool
	texts     bool // they differ
}

// Assign says that an address is a customer's of a shard, or of none if that is empty.
func (r *Recorder) Assign(a descriptor.Address, shard string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if shard == "" {
		delete(r.shards, a)
		return
	}
	r.shards[a] = shard
}

// gather adds an event of a shard's customer. The caller holds r.mu.
func (r *Recorder) gather(shard string, e event.Event) {
	key := gatherKey{shard, e.Kind, e.Level}
	g := r.gathers[key]
	if g == nil {
		g = &gathered{Event: e, due: time.Now().Add(gatherFor), customers: map[descriptor.Address]bool{}}
		if e.Level >= slog.LevelError {
			g.due = time.Now()
		}
		r.gathers[key] = g
	}
	g.customers[e.Service] = true
	g.texts = g.texts || e.Text != g.Text
	if len(g.customers) > 1 {
		g.Attrs = slices.DeleteFunc(slices.Clone(g.Attrs), func(a slog.Attr) bool { return !slices.ContainsFunc(e.Attrs, a.Equal) })
	}
}

// ripe takes the events that have been gathered for long enough, or all.
func (r *Recorder) ripe(all bool) (list []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for key, g := range r.gathers {
		if !all && now.Before(g.due) {
			continue
		}
		delete(r.gathers, key)
		e := g.Event
		e.Attrs = append([]slog.Attr{slog.String("shard", key.shard)}, e.Attrs...)
		if n := len(g.customers); n > 1 {
			e.Service = descriptor.Address{}
			e.Attrs = append(e.Attrs, slog.Int("customers", n))
		}
		if g.texts {
			e.Text += ", and others like that"
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b event.Event) int { return a.At.Compare(b.At) })
	return list
}
