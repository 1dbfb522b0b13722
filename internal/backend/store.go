package backend

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
)

// Store keeps the state of instances over restarts, as *state.DB does.
type Store interface {
	Instances() ([]state.Listed[state.Instance], error)
	SwapInstance(ctx context.Context, a descriptor.Address, version uint64, i state.Instance) (uint64, error)
	AllClaims() ([]state.ListedClaims, error)
	SwapClaims(ctx context.Context, p descriptor.Period, version uint64, c state.Claims) (uint64, error)
	WordStore
}

// saver writes records in the background, so that no caller waits for a disk. It
// reads the store once, when it is made.
type saver struct {
	store Store
	poke  chan struct{} // holds a token when something is dirty

	mu        sync.Mutex // protects what follows
	instances map[descriptor.Address]*stored[state.Instance]
	periods   map[descriptor.Period]*stored[state.Claims]
	err       error // of the last attempt to read or write
}

// stored is a record to write.
type stored[T any] struct {
	record  T
	version uint64 // in the store
	dirty   bool
	over    bool // to be deleted
}

// retrySave is the delay before a failed write is retried, and its maximum.
const (
	retrySave    = time.Second
	retrySaveMax = 5 * time.Minute
)

func newSaver(store Store) *saver {
	v := &saver{store: store, poke: make(chan struct{}, 1), instances: map[descriptor.Address]*stored[state.Instance]{}, periods: map[descriptor.Period]*stored[state.Claims]{}}
	instances, err := store.Instances()
	for _, i := range instances {
		v.instances[i.Address] = &stored[state.Instance]{record: i.Record, version: i.Version}
	}
	claims, claimsErr := store.AllClaims()
	for _, c := range claims {
		v.periods[c.Period] = &stored[state.Claims]{record: c.Record, version: c.Version}
	}
	v.err = errors.Join(err, claimsErr)
	return v
}

// trouble returns why the last attempt to read or write failed; nil if it did not.
func (v *saver) trouble() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// setInstance schedules a record to be written.
func (v *saver) setInstance(a descriptor.Address, record state.Instance) {
	v.mu.Lock()
	defer v.mu.Unlock()
	set(v.instances, a, record)
	v.wake()
}

// setClaims schedules the claims of a period to be written, and drops those of periods
// long before, and instances without a descriptor since: they are no longer used, or
// down, and their records are stale.
func (v *saver) setClaims(p descriptor.Period, c Claims) {
	record := state.Claims{Keys: make(map[state.Bytes32][]state.Address, len(c))}
	for key, list := range c {
		for _, a := range list {
			record.Keys[state.Bytes32(key)] = append(record.Keys[state.Bytes32(key)], state.Address(a))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	set(v.periods, p, record)
	over := func(number, minutes uint64) bool { return minutes != p.Minutes() || number+1 < p.Number }
	for old, s := range v.periods {
		if over(old.Number, old.Minutes()) {
			s.over, s.dirty = true, true
		}
	}
	for _, s := range v.instances {
		if over(s.record.Period, s.record.Minutes) {
			s.over, s.dirty = true, true
		}
	}
	v.wake()
}

// set makes record the pending one under key.
func set[K comparable, T any](all map[K]*stored[T], key K, record T) {
	s := all[key]
	if s == nil {
		s = new(stored[T])
		all[key] = s
	}
	s.record, s.dirty, s.over = record, true, false
}

func (v *saver) wake() {
	select {
	case v.poke <- struct{}{}:
	default:
	}
}

// loadClaims returns the stored claims of a period.
func (v *saver) loadClaims(p descriptor.Period) Claims {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := Claims{}
	if s := v.periods[p]; s != nil {
		for key, list := range s.record.Keys {
			for _, a := range list {
				c[key] = append(c[key], descriptor.Address(a))
			}
		}
	}
	return c
}

// run writes until ctx ends, and then once more. troubled is called when writing
// begins to fail, or works again.
func (v *saver) run(ctx context.Context, troubled func()) {
	retry := backoff.Backoff{Policy: backoff.Policy{Min: retrySave, Max: retrySaveMax}}
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			v.write(context.WithoutCancel(ctx))
			return
		case <-v.poke:
		case <-again:
		}
		before := v.trouble()
		again = nil
		if err := v.write(ctx); err != nil {
			again = time.After(retry.Next())
		} else {
			retry.Reset()
		}
		if after := v.trouble(); (before == nil) != (after == nil) {
			troubled()
		}
	}
}

// write writes the dirty records.
func (v *saver) write(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for a, s := range maps.All(v.instances) {
		if s.dirty {
			errs = append(errs, save(ctx, v, s, state.InstanceKey(a), func(record state.Instance) (uint64, error) { return v.store.SwapInstance(ctx, a, s.version, record) }))
		}
	}
	for p, s := range maps.All(v.periods) {
		if s.dirty {
			errs = append(errs, save(ctx, v, s, state.ClaimsKey(p), func(record state.Claims) (uint64, error) { return v.store.SwapClaims(ctx, p, s.version, record) }))
		}
	}
	maps.DeleteFunc(v.instances, func(_ descriptor.Address, s *stored[state.Instance]) bool { return s.over && !s.dirty })
	maps.DeleteFunc(v.periods, func(_ descriptor.Period, s *stored[state.Claims]) bool { return s.over && !s.dirty })
	v.err = errors.Join(errs...)
	return v.err
}

// save writes or deletes one record, with v.mu unlocked meanwhile.
func save[T any](ctx context.Context, v *saver, s *stored[T], key state.Key, swap func(T) (uint64, error)) error {
	record, over := s.record, s.over
	s.dirty = false
	v.mu.Unlock()
	var version uint64
	var err error
	if over {
		_, err = v.store.Swap(ctx, state.Change{Key: key, Version: s.version})
	} else {
		version, err = swap(record)
	}
	v.mu.Lock()
	var conflict *state.ConflictError
	switch {
	case errors.As(err, &conflict):
		// An earlier write of unknown outcome was done after all.
		s.version, s.dirty = conflict.Have, true
	case err != nil:
		s.dirty = true
	default:
		s.version = version
	}
	return err
}

// record is the stored form of b, whose descriptor was received as raw.
func (b *Backend) record(raw []byte) state.Instance {
	r := state.Instance{
		Period: b.Period.Number, Minutes: b.Period.Minutes(), Revision: b.Descriptor.RevisionCounter,
		Began: b.Began.UTC(), Renewed: b.Renewed.UTC(), Raw: raw,
	}
	for _, p := range b.Offer.Points {
		r.Points = append(r.Points, state.Point{AuthKey: state.Bytes32(p.AuthKey), EncKey: state.Bytes32(p.EncKey), Relay: p.Relay().String(), FirstSeen: p.FirstSeen.UTC()})
	}
	return r
}

// restore applies the stored record of an instance. The descriptor is verified again,
// as everything that comes from outside the process.
func (s *Set) restore(now time.Time, i Instance, w *watch) {
	s.saver.mu.Lock()
	stored := s.saver.instances[i.Address]
	s.saver.mu.Unlock()
	if stored == nil {
		return
	}
	r := stored.record
	p := descriptor.Period{Number: r.Period, Length: time.Duration(r.Minutes) * time.Minute}
	keys, err := i.Address.Keys(p)
	if err != nil {
		return
	}
	d, err := s.decoder.Decode(r.Raw, keys, i.Client, now)
	if errors.Is(err, descriptor.ErrClientKey) {
		return // another service may know the key
	}
	if err != nil {
		s.cfg.Record(event.Event{At: now, Kind: event.InstanceState, Text: "a stored descriptor is no longer usable",
			Attrs: []slog.Attr{slog.String("instance", i.Name), slog.Any("error", err)}})
		return
	}
	seen := make(map[ID]time.Time, len(r.Points))
	for _, p := range r.Points {
		if relay, err := descriptor.ParseFingerprint(p.Relay); err == nil {
			seen[ID{p.AuthKey, p.EncKey, relay}] = p.FirstSeen
		}
	}
	w.update(func(b *Backend) {
		b.Descriptor, b.Period, b.Began, b.Renewed, b.Seen, b.Offer = d, p, r.Began, r.Renewed, r.Renewed, OfferOf(d)
		b.Offer.Date(seen, now)
		s.rival(b)
	})
}
