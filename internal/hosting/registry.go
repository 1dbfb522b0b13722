package hosting

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Store keeps the records of customers, as *state.DB does.
type Store interface {
	Get(state.Key) (value []byte, version uint64, err error)
	List(prefix state.Key) ([]state.Entry, error)
	Swap(ctx context.Context, changes ...state.Change) (versions []uint64, err error)
}

// Registry has the customers of all shards, in memory and in the store. A change is
// stored before its caller is answered, so that what was answered is there after any end of
// the process; what had to be done to keys then is made up for by the next Configure.
// Changes at the same time share what the disk takes.
//
// Without its store, all customers with a key in a shard's directory are active, called as
// the directory is: suspensions and the ids of requests are lost.
type Registry struct {
	store   Store
	shared  Shared // store, if others change it, too; else nil
	sharing bool   // keys are in it, too
	log     *slog.Logger
	heard   heard

	configuring sync.Mutex // held while directories are listed and taken over

	mu       sync.Mutex // protects the fields below
	shards   map[string]*shard
	sorted   []*entry          // by label
	names    map[string]*entry // who has a name, or had it last
	requests map[string]*entry // by the id of the request that added it
	changes  recent
}

// shard is a shard of the configuration.
type shard struct {
	Shard
	dir     *Dir                 // nil if it could not be opened
	spares  []descriptor.Address // that nobody has
	trouble []error              // what is wrong with the directory
	changed time.Time            // the directory, when Refresh looked
	apart   bool                 // keys could not be compared with their records
	making  sync.Mutex           // held while a key directory is written
}

// now returns the counts.
func (s *shard) now() Shard {
	out := s.Shard
	out.Spares = len(s.spares)
	return out
}

// entry is a customer in memory.
type entry struct {
	Customer
	label   string
	version uint64        // of the record; 0: not stored yet
	keyed   bool          // the key is where State says; else where it was before
	was     *place        // where the key was before others changed the record; nil: where State says
	unsure  bool          // it could not be found out whether it is stored
	busy    chan struct{} // closed when the one who changes it is done; nil while nobody does
}

// Open returns a registry of the customers in store. It knows no shard until Configure.
func Open(store Store, log *slog.Logger) (*Registry, error) {
	r := &Registry{store: store, log: log, shards: map[string]*shard{}, names: map[string]*entry{}, requests: map[string]*entry{}, changes: recent{of: map[string]change{}}, heard: newHeard()}
	r.shared, _ = store.(Shared)
	left := func(err error) error { return err }
	if r.shared != nil { // the others' registries go on without it, too
		left = func(err error) error {
			log.Warn("the record of a customer is left out", "error", err)
			return nil
		}
	}
	customers, versions, err := stored(store, left)
	if err != nil {
		return nil, fmt.Errorf("opening the customers: %w", err)
	}
	for n, c := range customers {
		r.index(&entry{Customer: c, label: c.Address.Label(), version: versions[n]})
		r.changes.add(c.Changed, change{address: c.Address})
	}
	return r, nil
}

// Customers returns the customers in store, by address.
func Customers(store Store) ([]Customer, error) {
	customers, _, err := stored(store, func(err error) error { return err })
	return customers, err
}

// stored reads all records, with their versions. Those that make no sense are left out, unless
// left returns an error.
func stored(store Store, left func(error) error) (customers []Customer, versions []uint64, err error) {
	entries, err := store.List(state.CustomerPrefix)
	if err != nil {
		return nil, nil, err
	}
	shared := map[string]string{} // the names of shards, each once
	for _, e := range entries {
		c, err := decode(e.Key, e.Value)
		if err != nil {
			if err = left(err); err != nil {
				return nil, nil, err
			}
			continue
		}
		if _, known := shared[c.Shard]; !known {
			shared[c.Shard] = c.Shard
		}
		c.Shard = shared[c.Shard]
		customers, versions = append(customers, c), append(versions, e.Version)
	}
	return customers, versions, nil
}

func decode(key state.Key, value []byte) (Customer, error) {
	var record struct {
		Customer
		Address state.Address `json:"address"` // whose curve is not checked for all of them
	}
	if err := json.Unmarshal(value, &record); err != nil {
		return Customer{}, fmt.Errorf("reading %s: %w", key, err)
	}
	c := record.Customer
	c.Address = descriptor.Address(record.Address)
	switch { // whoever wrote it: the name is that of a directory
	case state.CustomerKey(c.Address) != key:
		return Customer{}, fmt.Errorf("reading %s: it is that of %s", key, c.Address.Short())
	case !nameForm.MatchString(c.Name):
		return Customer{}, fmt.Errorf("reading %s: %q: %w", key, c.Name, ErrName)
	}
	for _, s := range []State{Active, Suspended, Removed} {
		if c.State == s {
			c.State = s // the constant takes no memory
		}
	}
	return c, nil
}

// index adds an entry to what finds it.
func (r *Registry) index(e *entry) {
	n, _ := r.search(e.label)
	r.sorted = slices.Insert(r.sorted, n, e)
	r.call(e)
}

// call has an entry found by its name and request.
func (r *Registry) call(e *entry) {
	if other := r.names[e.Name]; other == nil || other.State == Removed && (e.State != Removed || e.Since.After(other.Since)) || other.version == 0 && e.version != 0 {
		r.names[e.Name] = e
	}
	if other := r.requests[e.Request]; e.Request != "" && (other == nil || other.version == 0) {
		r.requests[e.Request] = e
	}
}

// forget takes an entry out of it.
func (r *Registry) forget(e *entry) {
	if n, found := r.search(e.label); found {
		r.sorted = slices.Delete(r.sorted, n, n+1)
	}
	r.uncall(e)
}

// uncall undoes call.
func (r *Registry) uncall(e *entry) {
	if r.names[e.Name] == e {
		delete(r.names, e.Name)
	}
	if r.requests[e.Request] == e {
		delete(r.requests, e.Request)
	}
	if r.shared == nil {
		return
	}
	for _, other := range r.sorted { // another manager may have given the same name at the same time
		if other != e && (other.Name == e.Name || e.Request != "" && other.Request == e.Request) {
			r.call(other)
		}
	}
}

func (r *Registry) search(label string) (int, bool) {
	return slices.BinarySearchFunc(r.sorted, label, func(e *entry, label string) int { return strings.Compare(e.label, label) })
}

// find returns the entry of an address, nil if there is none.
func (r *Registry) find(a descriptor.Address) *entry {
	if n, found := r.search(a.Label()); found {
		return r.sorted[n]
	}
	return nil
}

// whose returns the stored customer with a name or address: of several who had a name,
// the last.
func (r *Registry) whose(customer string) (*entry, error) {
	e := r.names[customer]
	if a, err := descriptor.ParseAddress(customer); err == nil {
		e = r.find(a)
	}
	if e == nil || e.version == 0 && e.busy == nil {
		return nil, fmt.Errorf("%q: %w", customer, ErrUnknown)
	}
	return e, nil
}

// acquire waits until nobody else changes the customer, whom only the caller may
// change then, until release.
func (r *Registry) acquire(ctx context.Context, find func() (*entry, error)) (*entry, error) {
	for {
		r.mu.Lock()
		e, err := find()
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
		busy := e.busy
		if busy == nil {
			e.busy = make(chan struct{})
			r.mu.Unlock()
			return e, nil
		}
		r.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *Registry) release(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(e.busy)
	e.busy = nil
}

// carry calls change for an acquired entry, which it releases.
func (r *Registry) carry(e *entry, change func() error) (Customer, error) {
	defer r.release(e)
	err := change()
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.Customer, err
}

// put stores what an acquired entry is to be. After an error the entry is what the store
// has, as far as that can be read.
func (r *Registry) put(e *entry, c Customer) error {
	value, err := json.Marshal(c)
	if err != nil {
		return err
	}
	change := state.Change{Key: state.CustomerKey(c.Address), Version: e.version, Value: value}
	versions, err := r.swap(e, c, change)
	version := uint64(0)
	if err == nil {
		version = versions[0]
	} else {
		// It may have been made, now or by a call before that failed.
		var there []byte
		failed := r.fresh(err, change.Key)
		if failed == nil {
			there, version, failed = r.store.Get(change.Key)
		}
		if failed != nil {
			e.unsure = true
			return err
		}
		if bytes.Equal(there, value) {
			err = nil
		} else if version == 0 {
			e.unsure = false
			return err
		} else if c, failed = decode(change.Key, there); failed != nil {
			return errors.Join(err, failed)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.take(e, c, version)
	} else {
		r.takeOthers(e, c, version)
	}
	return err
}

// take has an acquired entry be what the store has.
func (r *Registry) take(e *entry, c Customer, version uint64) {
	r.count(e, -1)
	if e.Name != c.Name || e.Request != c.Request {
		r.uncall(e)
	}
	e.Customer, e.version, e.unsure = c, version, false
	r.call(e)
	r.count(e, 1)
}

func (r *Registry) setKeyed(e *entry, keyed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.keyed = keyed
}

// count adds a stored entry to the counts of its shard, n times. The removed are counted
// where their keys are.
func (r *Registry) count(e *entry, n int) {
	s := r.shards[e.Shard]
	switch {
	case s == nil || e.version == 0:
	case e.State == Active:
		s.Active += n
	case e.State == Suspended:
		s.Suspended += n
	}
}

// now is a time as it is stored.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
