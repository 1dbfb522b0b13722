package hosting

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"onionbalancer/descriptor"
)

// Add gives a customer the address of a spare, and returns when that is stored. An empty
// name stands for the address's label, an empty shard for the one with the most spares.
//
// A customer who has the name, or whom the same request added, is returned instead, and
// false. The error is ErrTaken if the name's customer is in another shard than the one asked
// for, ErrConflict if the request was for another name. After any other error, but ctx's, the
// customer may have been added: the same call again finds out. ctx ends the wait for others
// who change the customer, as in Set and Move, and nothing that was begun.
func (r *Registry) Add(ctx context.Context, name, shard, request string) (c Customer, added bool, err error) {
	if err := checkName(name); err != nil {
		return c, false, fmt.Errorf("adding a customer: %w", err)
	}
	for range conflictTries {
		var e *entry
		e, err = r.acquire(ctx, func() (*entry, error) {
			e, err := r.before(name, shard, request)
			if added = e == nil; added && err == nil {
				e, err = r.reserve(name, shard, request)
			}
			return e, err
		})
		if err != nil {
			break
		}
		a := e.Address
		if c, err = r.carry(e, func() error { return r.settle(e) }); !r.lost(ctx, a, err) && !r.outrun(a, name, err) {
			break
		}
	}
	if err != nil {
		return Customer{}, false, fmt.Errorf("adding a customer: %w", err)
	}
	return c, added, nil
}

// checkName reports why nobody can be called so. An address names whose it is alone.
func checkName(name string) error {
	if name == "" {
		return nil
	}
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q: %w: want 1 to 128 of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", the first a letter or a number", name, ErrName)
	}
	if _, err := descriptor.ParseAddress(name); err == nil {
		return fmt.Errorf("%w: it is an onion address", ErrName)
	}
	return nil
}

// before returns the customer whom an add like this one has added; nil if none did.
func (r *Registry) before(name, shard, request string) (*entry, error) {
	if e := r.requests[request]; e != nil {
		if name != e.Name && (name != "" || e.Name != e.label) {
			return nil, fmt.Errorf("%w: it added the customer %q", ErrConflict, e.Name)
		}
		return e, nil
	}
	if before, changed := r.changes.of[request]; changed {
		return nil, fmt.Errorf("%w: it changed %s", ErrConflict, before.address.Short())
	}
	e := r.names[name]
	if e == nil || e.State == Removed {
		return nil, nil
	}
	if shard != "" && e.Shard != shard {
		return nil, fmt.Errorf("%q: %w, in the shard %q", name, ErrTaken, e.Shard)
	}
	return e, nil
}

// reserve takes a spare for a new customer, who is stored by settle.
func (r *Registry) reserve(name, shard, request string) (*entry, error) {
	s, err := r.roomiest(shard)
	if err != nil {
		return nil, err
	}
	last := len(s.spares) - 1
	if r.shared != nil { // others should take others
		n := rand.IntN(last + 1)
		s.spares[n], s.spares[last] = s.spares[last], s.spares[n]
	}
	a := s.spares[last]
	s.spares = s.spares[:last]
	if r.find(a) != nil { // the same key is in the directories of two shards
		return r.reserve(name, shard, request)
	}
	label := a.Label()
	if name == "" {
		name = label
	}
	e := &entry{label: label, Customer: Customer{Name: name, Address: a, Shard: s.Name, State: Active, Added: now(), Request: request}}
	e.Since = e.Added
	r.index(e)
	return e, nil
}

// roomiest returns the shard called name, or if that is empty, the one with the most spares.
func (r *Registry) roomiest(name string) (best *shard, err error) {
	if name != "" {
		if best = r.shards[name]; best == nil {
			return nil, fmt.Errorf("%q: %w", name, ErrNoShard)
		}
	} else {
		for _, s := range r.shards {
			if best == nil || len(s.spares) > len(best.spares) || len(s.spares) == len(best.spares) && s.Name < best.Name {
				best = s
			}
		}
		if best == nil {
			return nil, fmt.Errorf("the configuration has none: %w", ErrNoShard)
		}
	}
	if len(best.spares) == 0 {
		return nil, fmt.Errorf("%q: %w: \"balancer shard refill %[1]s\" makes some, which need a rolling restart of the replicas", best.Name, ErrNoSpare)
	}
	return best, nil
}

// settle makes an acquired entry whole: stored, with its key where it belongs. If nothing
// of it is stored, the name and the spare are free again.
func (r *Registry) settle(e *entry) error {
	r.mu.Lock()
	s, isNew := r.shards[e.Shard], e.version == 0
	r.mu.Unlock()
	usable := s != nil && s.dir != nil
	switch {
	case isNew && !usable:
		r.giveBack(e, false)
		return fmt.Errorf("%q: %w any more", e.Shard, ErrNoShard)
	case !isNew && (e.keyed || e.State == Removed || !usable):
		return nil
	case isNew:
		err := s.dir.checkTake(e.Address, e.Name)
		if err == nil {
			err = r.put(e, e.Customer)
		}
		if err != nil {
			r.giveBack(e, !errors.Is(err, fs.ErrNotExist))
			return err
		}
	}
	if err := s.dir.Take(e.Address, e.Name); err != nil {
		return fmt.Errorf("the customer is stored: %w", err)
	}
	r.setKeyed(e, true)
	return nil
}

// checkTake reports why Take could not succeed; the error is fs.ErrNotExist if the spare is
// there no more.
func (d *Dir) checkTake(a descriptor.Address, name string) error {
	if _, err := os.Lstat(filepath.Join(d.path, sparesDir, a.Label())); err != nil {
		return fmt.Errorf("taking a spare: %w", err)
	}
	_, err := os.Lstat(filepath.Join(d.path, name))
	if err == nil {
		return fmt.Errorf("%q: %w by something in %s that is no customer's yet", name, ErrTaken, d.path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("taking a spare: %w", err)
	}
	return nil
}

// giveBack undoes reserve, if nothing is stored as far as is known. spare says whether the
// spare is still one.
func (r *Registry) giveBack(e *entry, spare bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.version != 0 || e.unsure {
		return
	}
	r.forget(e)
	if s := r.shards[e.Shard]; s != nil && spare && !slices.Contains(s.spares, e.Address) {
		s.spares = append(s.spares, e.Address)
	}
}
