package hosting

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

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
