package daemon

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
)

// What happens to an instance of a shard happens to all of its customers. Their events are
// for debugging one by one; for the log and the history those of one shard, kind and level
// become one after a while, with the number of customers.

// bundleFor is how long events are bundled. An error is told at the next tick.
const bundleFor = time.Minute

// bundleKey is what events that become one have in common.
type bundleKey struct {
	shard string
	kind  event.Kind
	level slog.Level
}

// bundle is the first of some events, with what the others have in common with it.
type bundle struct {
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

// bundle adds an event of a shard's customer. The caller holds r.mu.
func (r *Recorder) bundle(shard string, e event.Event) {
	key := bundleKey{shard, e.Kind, e.Level}
	b := r.bundles[key]
	if b == nil {
		b = &bundle{Event: e, due: time.Now().Add(bundleFor), customers: map[descriptor.Address]bool{}}
		if e.Level >= slog.LevelError {
			b.due = time.Now()
		}
		r.bundles[key] = b
	}
	b.customers[e.Service] = true
	b.texts = b.texts || e.Text != b.Text
	if len(b.customers) > 1 {
		b.Attrs = slices.DeleteFunc(slices.Clone(b.Attrs), func(a slog.Attr) bool {
			return !slices.ContainsFunc(e.Attrs, func(other slog.Attr) bool { return a.String() == other.String() }) // errors may not be comparable
		})
	}
}

// ripe takes the events that have been bundled for long enough, or all.
func (r *Recorder) ripe(all bool) (list []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for key, b := range r.bundles {
		if !all && now.Before(b.due) {
			continue
		}
		delete(r.bundles, key)
		e := b.Event
		e.Attrs = append([]slog.Attr{slog.String("shard", key.shard)}, e.Attrs...)
		if n := len(b.customers); n > 1 {
			e.Service = descriptor.Address{}
			e.Attrs = append(e.Attrs, slog.Int("customers", n))
		}
		if b.texts {
			e.Text += ", and others like that"
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b event.Event) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Kind, b.Kind)) })
	return list
}
