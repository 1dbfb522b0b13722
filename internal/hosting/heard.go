package hosting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// heard are the records that others changed and that were not taken in yet.
type heard struct {
	mu      sync.Mutex
	keys    map[state.Key]bool // of customers
	secrets map[state.Key]bool // of their keys
	adopted bool               // the directories were taken over since the store was joined

	woken chan struct{} // holds a token when there is something to Hear
}

func newHeard() heard {
	return heard{keys: make(map[state.Key]bool), secrets: make(map[state.Key]bool), woken: make(chan struct{}, 1)}
}

// Note notes that customers' records were changed, as a Shared store's Subscribe tells. Hear
// takes that in.
func (r *Registry) Note(changed []state.Key) {
	r.noteChanged(r.heard.keys, changed)
}

// NoteKeys is Note for records of keys.
func (r *Registry) NoteKeys(changed []state.Key) { r.noteChanged(r.heard.secrets, changed) }

// noteChanged adds keys to those that are to be taken in.
func (r *Registry) noteChanged(of map[state.Key]bool, changed []state.Key) {
	r.heard.mu.Lock()
	defer r.heard.mu.Unlock()
	for _, key := range changed {
		of[key] = true
	}
	r.wake()
}

func (r *Registry) wake() {
	select {
	case r.heard.woken <- struct{}{}:
	default:
	}
}

// Noted receives when there is something to Hear.
func (r *Registry) Noted() <-chan struct{} { return r.heard.woken }

// Change is how a record of another manager's changed a customer. Was is zero if the customer
// was not known here.
type Change struct{ Was, Is Customer }

// hearAtOnce is how many records are taken in at a time.
const hearAtOnce = 40

// Hear takes in what other managers changed, as far as Note was told: the customers and where
// their keys are. It returns who is otherwise now, but for those who are forgotten. An error
// is about some of them, who are taken in by the next call.
func (r *Registry) Hear(ctx context.Context) (list []Change, err error) {
	if r.shared == nil || !r.shared.Joined() {
		return nil, nil
	}
	r.configuring.Lock()
	defer r.configuring.Unlock()
	list, failed := r.hearAll(ctx)
	if ctx.Err() != nil || r.adopted(true) {
		r.hearKeys(ctx)
		return list, failed
	}
	// Others' customers are no strangers any more, and keys may be there that were missing.
	r.mu.Lock()
	for _, s := range r.shards {
		if s.dir != nil {
			s.trouble = nil
		}
	}
	r.mu.Unlock()
	// A record that cannot be read is a conflict for who would write it: what it should be
	// is left to who can.
	if err = r.takeOver(ctx, slices.Sorted(maps.Keys(r.dirs()))); err != nil {
		r.adopted(false)
	}
	err = errors.Join(failed, err)
	known := make(map[descriptor.Address]bool, len(list))
	for _, c := range list {
		known[c.Is.Address] = true
	}
	for _, c := range r.All() { // some were not served for want of a key
		if !known[c.Address] {
			list = append(list, Change{c, c})
		}
	}
	return list, err
}

// Shared reports whether other managers change customers, too.
func (r *Registry) Shared() bool { return r.shared != nil }

// adopted sets whether directories were taken over since the store was joined, and returns
// whether they were before.
func (r *Registry) adopted(is bool) (was bool) {
	r.heard.mu.Lock()
	defer r.heard.mu.Unlock()
	was, r.heard.adopted = r.heard.adopted, is
	return was
}

// dirs returns the shards, by name.
func (r *Registry) dirs() map[string]*shard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.shards)
}

// hearLeft has Hear called again if there is something that it could not take in.
func (r *Registry) hearLeft() {
	r.heard.mu.Lock()
	defer r.heard.mu.Unlock()
	if len(r.heard.keys)+len(r.heard.secrets) > 0 || !r.heard.adopted {
		r.wake()
	}
}

func (r *Registry) hearAll(ctx context.Context) (list []Change, err error) {
	r.heard.mu.Lock()
	keys := slices.Sorted(maps.Keys(r.heard.keys))
	clear(r.heard.keys)
	r.heard.mu.Unlock()
	var mu sync.Mutex
	var errs []error
	var workers errgroup.Group
	workers.SetLimit(hearAtOnce)
	for _, key := range keys {
		workers.Go(func() error {
			c, err := r.hear(ctx, key)
			mu.Lock()
			defer mu.Unlock()
			if c.Was != c.Is {
				list = append(list, c)
			}
			if err != nil {
				errs = append(errs, err)
				r.heard.mu.Lock()
				r.heard.keys[key] = true
				r.heard.mu.Unlock()
			}
			return nil
		})
	}
	_ = workers.Wait()
	if len(errs) > 0 {
		err = fmt.Errorf("taking over what other managers changed: %w", errors.Join(errs[:min(len(errs), 5)]...))
	}
	return list, err
}

// errNothing says that there is nothing to take in.
var errNothing = errors.New("there is no record")

// hear takes in a customer's record. The change is none if both halves are the same.
func (r *Registry) hear(ctx context.Context, key state.Key) (out Change, err error) {
	a, err := state.CustomerOf(key)
	if err != nil {
		return out, err
	}
	e, err := r.acquire(ctx, func() (*entry, error) {
		if e := r.find(a); e != nil {
			return e, nil
		}
		value, version, err := r.store.Get(key)
		if err == nil && version == 0 {
			err = errNothing
		}
		if err != nil {
			return nil, err
		}
		c, err := decode(key, value)
		if err != nil {
			return nil, err
		}
		e := &entry{Customer: c, label: a.Label()}
		r.index(e)
		return e, nil
	})
	if errors.Is(err, errNothing) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if e.version != 0 {
		out.Was = e.Customer
	}
	there := false
	out.Is, err = r.carry(e, func() error {
		err := r.refer(e, key)
		there = err == nil && e.version != 0
		if there && (e.was != nil || !e.keyed) {
			r.tellPlace(e, r.place(e))
		}
		return err
	})
	if !there {
		out.Is = out.Was // it is as it was, or forgotten
	}
	return out, err
}

// refer has an acquired entry be what its record says.
func (r *Registry) refer(e *entry, key state.Key) error {
	value, version, err := r.store.Get(key)
	switch {
	case err != nil:
		return err
	case version == 0 && e.version == 0:
		r.giveBack(e, true)
		return nil
	case version == 0:
		return r.vanished(e)
	case version == e.version:
		return nil
	}
	c, err := decode(key, value)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.shards[c.Shard]; s != nil && e.version == 0 {
		s.spares = slices.DeleteFunc(s.spares, func(a descriptor.Address) bool { return a == c.Address })
	}
	r.takeOthers(e, c, version)
	r.changes.add(c.Changed, change{address: c.Address})
	return nil
}

// takeOthers is take for what another manager may have written, whose customer's key is
// where it was here.
func (r *Registry) takeOthers(e *entry, c Customer, version uint64) {
	elsewhere := c.Name != e.Name || c.Shard != e.Shard || (c.State == Removed) != (e.State == Removed)
	if e.version != 0 && e.was == nil && elsewhere {
		e.was, e.keyed = &place{e.Shard, e.place()}, false
	}
	r.take(e, c, version)
}

// vanished deals with an acquired entry whose record is there no more. Only those of removed
// customers are deleted: any other was lost, and is written again.
func (r *Registry) vanished(e *entry) error {
	r.mu.Lock()
	r.count(e, -1)
	version := e.version
	e.version = 0
	if e.State == Removed {
		r.forget(e)
		s := r.shards[e.Shard]
		r.mu.Unlock()
		if s != nil && s.dir != nil && time.Since(e.Since) > keptRemoved/2 { // else the record may have been lost
			return s.dir.Erase(e.Address) // as the operator did with the other manager's
		}
		return nil
	}
	r.mu.Unlock()
	r.log.Warn("the record of a customer is not in the cluster's store any more, and is written again", "customer", e.Called(), "shard", e.Shard)
	err := r.put(e, e.Customer)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.version == 0 {
			e.version = version
			r.count(e, 1)
		}
	}
	return err
}
