package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
)

// Recorder records events: each is logged at once, counted, and written to the
// history in the store, in the background. Those of shards' customers are bundled, but what was
// done to one.
type Recorder struct {
	log event.Recorder

	mu      sync.Mutex        // protects the fields below
	counts  map[string]uint64 // events recorded, by kind
	pending [][]byte          // events for the store, the oldest first
	shards  map[descriptor.Address]string
	bundles map[bundleKey]*bundle
}

// How often the history is written, and how many events may be pending while
// they cannot be written.
const (
	historyEvery   = 5 * time.Second
	historyPending = 10_000
)

// NewRecorder returns a Recorder that logs to log, with services named by
// name.
func NewRecorder(log *slog.Logger, name func(descriptor.Address) slog.LogValuer) *Recorder {
	return &Recorder{log: event.Log(log, name), counts: map[string]uint64{}, shards: map[descriptor.Address]string{}, bundles: map[bundleKey]*bundle{}}
}

// Record is an event.Recorder.
func (r *Recorder) Record(e event.Event) {
	r.mu.Lock()
	r.counts[string(e.Kind)]++
	shard := r.shards[e.Service]
	if shard != "" && e.Level >= slog.LevelInfo && e.Kind != event.Customer {
		if !routine(e) {
			r.bundle(shard, e)
		}
		e.Level = slog.LevelDebug
	}
	r.mu.Unlock()
	r.tell(e)
}

// tell logs an event, and writes it to the history.
func (r *Recorder) tell(e event.Event) {
	r.log(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Level < slog.LevelInfo || routine(e) || len(r.pending) >= historyPending {
		return
	}
	if raw, err := json.Marshal(e); err == nil {
		r.pending = append(r.pending, raw)
	}
}

// routine reports whether an event is of use in the log alone: every edition is
// refreshed every hour or two, and would soon fill the history of many services.
func routine(e event.Event) bool {
	return e.Kind == event.Publishing && slices.ContainsFunc(e.Attrs, func(a slog.Attr) bool {
		return a.Key == "reason" && a.Value.Any() == balance.ReasonRefresh
	})
}

// Run writes the history until ctx ends, and then once more.
func (r *Recorder) Run(ctx context.Context, store *state.DB) {
	tick := time.NewTicker(historyEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		r.flush(ctx, store)
	}
}

// flush tells what was bundled for long enough, or at the end of ctx all, and writes the
// pending events to the history.
func (r *Recorder) flush(ctx context.Context, store *state.DB) {
	for _, e := range r.ripe(ctx.Err() != nil) {
		r.tell(e)
	}
	r.mu.Lock()
	pending := r.pending
	r.pending = nil
	r.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	if err := store.AppendEvents(context.WithoutCancel(ctx), pending...); err != nil {
		r.mu.Lock() // what failed is retried, unless there is too much of it
		defer r.mu.Unlock()
		r.pending = append(pending, r.pending...)
		r.pending = r.pending[max(0, len(r.pending)-historyPending):]
	}
}

// Counts returns how many events of each kind were recorded.
func (r *Recorder) Counts() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// name is an onion address as the log shows it: shortened, unless the operator
// has log.full_addresses set by then.
type name struct {
	address descriptor.Address
	full    func() bool
}

// LogValue implements slog.LogValuer.
func (n name) LogValue() slog.Value {
	if n.full() {
		return slog.StringValue(n.address.String())
	}
	return slog.StringValue(n.address.Short())
}

func (d *Daemon) name(a descriptor.Address) slog.LogValuer { return name{a, d.fullNames.Load} }
