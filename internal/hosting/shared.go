package hosting

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Shared is a Store of several managers, each of which has a Registry and directories of its
// own, as *cluster.Copied is. A record of a customer decides, whichever manager wrote it:
// the others move their keys after it. Two more kinds of records keep two managers from doing
// the same at once; they have no meaning once the customer they name is another's:
//
//	customer-name/NAME      the label of who is called so
//	customer-request/HASH   the label of whom a request added
type Shared interface {
	Store
	// Fresh reads records again.
	Fresh(ctx context.Context, keys ...state.Key) error
	// Joined reports whether the records are the managers'. Before that they are copies, and
	// nothing can be stored.
	Joined() bool
}

const (
	namePrefix    = "customer-name/"
	requestPrefix = "customer-request/"
)

func nameKey(name string) state.Key { return state.Key(namePrefix + name) }

func requestKey(request string) state.Key {
	sum := sha256.Sum256([]byte(request))
	return state.Key(requestPrefix + hex.EncodeToString(sum[:]))
}

const (
	// sharedTimeout is how long a store that others have, too, is waited for.
	sharedTimeout = 15 * time.Second
	// sharedAtOnce is how many customers' records are changed at once there: each takes up
	// to three changes, and there may be 120.
	sharedAtOnce = 40
	// keptRemoved is for how long the record of a removed customer stays there: a manager
	// that was away for as long takes the customer for one who is not removed.
	keptRemoved = 30 * 24 * time.Hour
)

// errHeld says that another manager has given the name or done the request.
type errHeld struct{ by descriptor.Address }

func (e errHeld) Error() string {
	return "another manager did it for " + e.by.Short() + " at the same time"
}

// Unwrap has it be a conflict.
func (errHeld) Unwrap() error { return state.ErrConflict }

// swap makes the change that has an acquired entry be c.
func (r *Registry) swap(e *entry, c Customer, change state.Change) ([]uint64, error) {
	if r.shared == nil {
		return r.store.Swap(context.Background(), change)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
	defer cancel()
	changes := []state.Change{change}
	if c.State != Removed && (e.version == 0 || c.Name != e.Name) {
		held, err := r.hold(ctx, nameKey(c.Name), c.Address, func(other Customer) bool { return other.Name == c.Name && other.State != Removed })
		if err != nil {
			return nil, err
		}
		changes = append(changes, held)
	}
	if e.version == 0 && c.Request != "" {
		held, err := r.hold(ctx, requestKey(c.Request), c.Address, func(other Customer) bool { return other.Request == c.Request })
		if err != nil {
			return nil, err
		}
		changes = append(changes, held)
	}
	return r.store.Swap(ctx, changes...)
}

// hold returns the change by which nobody else but the customer with an address has what a
// key stands for. It is errHeld if the record says that somebody has it, who still does.
func (r *Registry) hold(ctx context.Context, key state.Key, a descriptor.Address, still func(Customer) bool) (state.Change, error) {
	label, version, err := r.store.Get(key)
	change := state.Change{Key: key, Version: version, Value: []byte(a.Label())}
	if err != nil || version == 0 || string(label) == a.Label() {
		return change, err
	}
	other, err := descriptor.ParseAddress(string(label))
	if err != nil {
		return change, fmt.Errorf("reading %s: %w", key, err)
	}
	there := state.CustomerKey(other)
	value, version, err := r.store.Get(there)
	if err == nil && version == 0 { // or it was not seen yet
		if err = r.shared.Fresh(ctx, there); err == nil {
			value, version, err = r.store.Get(there)
		}
	}
	if err != nil || version == 0 {
		return change, err
	}
	c, err := decode(there, value)
	if err == nil && still(c) {
		err = errHeld{other}
	}
	return change, err
}

// letGo returns the changes that delete what hold has written for a customer.
func (r *Registry) letGo(e *entry) (changes []state.Change) {
	if r.shared == nil {
		return nil
	}
	keys := []state.Key{nameKey(e.Name)}
	if e.Request != "" {
		keys = append(keys, requestKey(e.Request))
	}
	for _, key := range keys {
		if label, version, err := r.store.Get(key); err == nil && version != 0 && string(label) == e.label {
			changes = append(changes, state.Change{Key: key, Version: version})
		}
	}
	return changes
}

// fresh makes sure that the store tells what became of a change that failed.
func (r *Registry) fresh(failed error, key state.Key) error {
	if r.shared == nil || errors.Is(failed, state.ErrConflict) {
		return nil
	}
	if !r.shared.Joined() {
		return nil // nothing was changed
	}
	ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
	defer cancel()
	return r.shared.Fresh(ctx, key)
}

// putAll stores acquired entries that are new.
func (r *Registry) putAll(list []*entry) error {
	var workers errgroup.Group
	workers.SetLimit(sharedAtOnce) // they share transactions
	for _, e := range list {
		workers.Go(func() error { return r.put(e, e.Customer) })
	}
	return workers.Wait()
}

// lost reports whether a change failed as another manager changed the same. What that did is
// taken in then, and the change may be tried again.
func (r *Registry) lost(ctx context.Context, a descriptor.Address, err error) bool {
	if r.shared == nil || !errors.Is(err, state.ErrConflict) {
		return false
	}
	keys := []state.Key{state.CustomerKey(a)}
	if held := (errHeld{}); errors.As(err, &held) {
		keys = append(keys, state.CustomerKey(held.by))
	}
	for _, key := range keys {
		if _, err := r.hear(ctx, key); err != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// outrun reports whether a customer with an address could not be called so as another
// manager's is, whose key is here already.
func (r *Registry) outrun(a descriptor.Address, name string, err error) bool {
	if r.shared == nil || !errors.Is(err, ErrTaken) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.names[name]
	return e != nil && e.version != 0 && e.Address != a && e.State != Removed
}

// again is how often a change is tried while other managers change the same.
const again = 10

// heard are the records that others changed and that were not taken in yet.
type heard struct {
	mu      sync.Mutex
	keys    map[state.Key]bool
	secrets map[state.Key]bool
	adopted bool // the directories were taken over since the store was joined

	woken chan struct{}
}

// Note notes that customers' records were changed, as a Shared store's Subscribe tells. Hear
// takes that in.
func (r *Registry) Note(changed []state.Key) {
	r.heard.mu.Lock()
	defer r.heard.mu.Unlock()
	if r.heard.keys == nil {
		r.heard.keys = make(map[state.Key]bool)
	}
	for _, key := range changed {
		r.heard.keys[key] = true
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
// their keys are. It returns who is otherwise now, but for those who are forgotten. An error is about
// some of them, who are taken in by the next call.
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

// place is where a key is.
type place struct{ shard, sub string }

// place brings the key of an acquired entry to where the record says that it is, as far
// as it is here.
func (r *Registry) place(e *entry) error {
	r.mu.Lock()
	s, was := r.shards[e.Shard], e.was
	var from *shard
	if was != nil {
		from = r.shards[was.shard]
	}
	c := e.Customer
	r.mu.Unlock()
	if s == nil || s.dir == nil {
		return nil
	}
	var err error
	if c.State == Removed {
		err = r.placeRemoved(c, s, was)
	} else {
		err = r.placeServed(c, s, from, was)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	e.keyed, e.was = true, nil
	s.spares = slices.DeleteFunc(s.spares, func(a descriptor.Address) bool { return a == c.Address })
	r.mu.Unlock()
	if c.State != Removed && from != nil && from != s && from.dir != nil {
		r.leaveAt(was.sub, e, from)
	}
	return nil
}

// placeRemoved puts the key of a removed customer among those of the removed.
func (r *Registry) placeRemoved(c Customer, s *shard, was *place) error {
	subs := []string{c.Name, SpareDir(c.Address), filepath.Join(pendingDir, c.Address.Label())}
	if was != nil && was.shard == s.Name {
		subs = append(subs, was.sub)
	}
	for _, sub := range subs {
		if is, err := s.dir.Address(sub); err != nil || is != c.Address {
			continue
		}
		if sub != c.Name {
			return s.dir.move(c.Address, sub, filepath.Join(removedDir, c.Address.Label()))
		}
		fresh, err := s.dir.retire(c.Name, c.Address)
		if err == nil {
			r.mu.Lock()
			s.Removed += fresh
			r.mu.Unlock()
		}
		return err
	}
	return nil // it never was here, or is there already
}

// errNoKey says that a key is not in the directory of a shard.
var errNoKey = errors.New("it is not here")

// placeServed puts the key of a customer who is not removed into the customer's directory.
func (r *Registry) placeServed(c Customer, s, from *shard, was *place) error {
	if is, err := s.dir.Address(c.Name); err == nil && is == c.Address {
		return nil
	}
	subs := []string{SpareDir(c.Address), filepath.Join(pendingDir, c.Address.Label()), filepath.Join(removedDir, c.Address.Label())}
	if was != nil && was.shard == s.Name {
		subs = slices.Insert(subs, 0, was.sub)
	}
	for _, sub := range subs {
		if is, err := s.dir.Address(sub); err == nil && is == c.Address {
			return s.dir.move(c.Address, sub, c.Name)
		}
	}
	if from != nil && from != s && from.dir != nil {
		source := filepath.Join(from.dir.path, was.sub)
		if is, err := from.dir.Address(was.sub); err == nil && is == c.Address {
			return s.make(c.Name, func(dir string) error { return copyFiles(source, dir) })
		}
	}
	return r.takeKey(s, c)
}

// make is (*Dir).make, for one at a time.
func (s *shard) make(sub string, write func(dir string) error) error {
	s.making.Lock()
	defer s.making.Unlock()
	return s.dir.make(sub, write)
}

// placeAll looks again for the keys that were not found where they should be.
func (r *Registry) placeAll(ctx context.Context) {
	r.mu.Lock()
	var list []*entry
	for _, e := range r.sorted {
		if e.busy == nil && e.version != 0 && (e.was != nil || !e.keyed) {
			e.busy = make(chan struct{})
			list = append(list, e)
		}
	}
	r.mu.Unlock()
	for _, e := range list {
		if ctx.Err() == nil {
			_ = r.place(e) // it was told before
		}
		r.release(e)
	}
}

// placeOne is place for a customer whom nobody changes.
func (r *Registry) placeOne(a descriptor.Address) {
	r.mu.Lock()
	e := r.find(a)
	if e == nil || e.busy != nil {
		r.mu.Unlock()
		return
	}
	e.busy = make(chan struct{})
	r.mu.Unlock()
	defer r.release(e)
	r.tellPlace(e, r.place(e))
}

// tellPlace logs that a key could not be brought to its place.
func (r *Registry) tellPlace(e *entry, err error) {
	if err != nil {
		r.log.Warn("the key of a customer is not where another manager had it put", "customer", e.Called(), "shard", e.Shard, "error", err)
	}
}

// ask finds out what became of additions of which that is not known.
func (r *Registry) ask(ctx context.Context) error {
	r.mu.Lock()
	var keys []state.Key
	for _, e := range r.sorted {
		if e.version == 0 && e.unsure && e.busy == nil {
			keys = append(keys, state.CustomerKey(e.Address))
		}
	}
	r.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	if err := r.shared.Fresh(ctx, keys...); err != nil {
		return err
	}
	for _, key := range keys {
		e, err := r.acquire(ctx, func() (*entry, error) {
			a, _ := state.CustomerOf(key)
			if e := r.find(a); e != nil {
				return e, nil
			}
			return nil, errNothing
		})
		if err != nil {
			continue
		}
		_, err = r.carry(e, func() error {
			e.unsure = false
			return r.refer(e, key)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveAt is leave for a key that may have been called otherwise in the shard that its
// customer left.
func (r *Registry) leaveAt(sub string, e *entry, from *shard) {
	if is, err := from.dir.Address(sub); err != nil || is != e.Address {
		return
	}
	if sub == e.Name {
		r.leave(e, from)
		return
	}
	if err := from.dir.move(e.Address, sub, filepath.Join(removedDir, e.label)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("the key of a customer stays in a shard that it is not in", "customer", e.Called(), "shard", from.Name, "error", err)
	}
}
