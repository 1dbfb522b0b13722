package hosting

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Set suspends, resumes or removes a customer, by name or address, and returns when that is
// stored. changed is false if the customer was in that state already, or if the same request
// was made before: what others changed since stays.
func (r *Registry) Set(ctx context.Context, customer string, to State, request string) (c Customer, changed bool, err error) {
	c, changed, err = r.once(ctx, customer, string(to), request, func(e *entry) (bool, error) { return r.set(e, to, request) })
	if err != nil {
		return Customer{}, false, fmt.Errorf("changing a customer: %w", err)
	}
	return c, changed, nil
}

// once has a customer, by name or address, changed by a request that brings it into a state
// or to a shard, unless the same request has done so before.
func (r *Registry) once(ctx context.Context, customer, to, request string, change func(*entry) (bool, error)) (c Customer, changed bool, err error) {
	for range conflictTries {
		before := false
		var e *entry
		e, err = r.acquire(ctx, func() (e *entry, err error) { e, before, err = r.asked(customer, to, request); return e, err })
		if err != nil {
			return c, false, err
		}
		a := e.Address
		c, err = r.carry(e, func() (err error) {
			if !before {
				changed, err = change(e)
			}
			return err
		})
		if !r.lost(ctx, a, err) {
			break
		}
	}
	return c, changed, err
}

// asked returns the customer with a name or address, whom a request is to bring into a state
// or to a shard, and whether the same request has done so before.
func (r *Registry) asked(customer, to, request string) (e *entry, again bool, err error) {
	if r.requests[request] != nil {
		return nil, false, fmt.Errorf("%w: it added the customer %q", ErrConflict, r.requests[request].Name)
	}
	if before, known := r.changes.of[request]; known {
		if e = r.find(before.address); e == nil {
			return nil, false, fmt.Errorf("%q: %w any more", customer, ErrUnknown)
		}
		if customer != e.Name && strings.TrimSuffix(strings.ToLower(customer), ".onion") != e.label {
			return nil, false, fmt.Errorf("%w: it changed the customer %q", ErrConflict, e.Name)
		}
		if before.to != "" && before.to != to {
			return nil, false, fmt.Errorf("%w: %q for the same customer", ErrConflict, before.to)
		}
		return e, true, nil
	}
	e, err = r.whose(customer)
	return e, false, err
}

// recentKept is how many requests for changes are remembered, besides the last of each customer.
const recentKept = 10_000

// recent has the last requests that changed customers, by their ids.
type recent struct {
	of    map[string]change
	order []string // the oldest first
}

// change is what a request has done: to which state or shard it brought whom. After a
// restart only the customer is known.
type change struct {
	address descriptor.Address
	to      string
}

func (r *recent) add(request string, c change) {
	if request == "" {
		return
	}
	if _, known := r.of[request]; !known {
		r.order = append(r.order, request)
	}
	r.of[request] = c
	if len(r.order) > 2*recentKept {
		for _, old := range r.order[:recentKept] {
			delete(r.of, old)
		}
		r.order = slices.Clone(r.order[recentKept:])
	}
}

// changed remembers that a request changed a customer.
func (r *Registry) changed(e *entry, to, request string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes.add(request, change{e.Address, to})
}

func (r *Registry) set(e *entry, to State, request string) (changed bool, err error) {
	switch e.State {
	case to:
		return false, nil
	case Removed:
		return false, fmt.Errorf("%q: %w", e.Name, ErrRemoved)
	}
	next, wish := e.Customer, e.MovingTo
	next.State, next.Since, next.Changed, next.Confirmed = to, now(), request, time.Time{}
	if to == Removed && e.State == Suspended {
		next.Confirmed = e.Confirmed // what is withdrawn stays so
	}
	if to == Removed {
		next.MovingTo = ""
	}
	if err := r.put(e, next); err != nil {
		return false, err
	}
	r.changed(e, string(to), request)
	if to == Removed {
		r.setKeyed(e, false)
		r.retire(e)
		r.cancel(e, wish)
	}
	return true, nil
}

// retire puts the key of a removed customer among those of the removed. If that fails, the
// next Configure does it.
func (r *Registry) retire(e *entry) {
	r.mu.Lock()
	s := r.shards[e.Shard]
	r.mu.Unlock()
	if s == nil || s.dir == nil {
		return
	}
	fresh, err := s.dir.retire(e.Name, e.Address)
	if err != nil {
		r.log.Warn("the key of a removed customer stays where it is", "customer", e.Called(), "shard", e.Shard, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.keyed = true
	s.Removed += fresh
}

// retire is Retire also where the same key is among those of the removed, since its
// customer was in the shard before. It returns how many more the removed are.
func (d *Dir) retire(name string, a descriptor.Address) (fresh int, err error) {
	if is, err := d.Address(name); err != nil || is != a {
		return 0, errors.Join(fmt.Errorf("%q in %s is not the key of %s", name, d.path, a.Short()), err)
	}
	if _, err := os.Lstat(filepath.Join(d.path, removedDir, a.Label())); err != nil {
		fresh = 1
	} else if err := d.Erase(a); err != nil {
		return 0, err
	}
	return fresh, d.Retire(name, a)
}

// Confirm notes that HSDirs have what should be published of a customer as it was when c was
// returned; a later change makes that void.
func (r *Registry) Confirm(ctx context.Context, c Customer) (Customer, error) {
	e, err := r.acquire(ctx, func() (*entry, error) { return r.whose(c.Address.String()) })
	if err == nil {
		c, err = r.carry(e, func() error {
			next := e.Customer
			if next.State != c.State || !next.Since.Equal(c.Since) || !next.Confirmed.IsZero() {
				return nil
			}
			next.Confirmed = now()
			return r.put(e, next)
		})
	}
	if err != nil {
		return Customer{}, fmt.Errorf("noting what HSDirs have of a customer: %w", err)
	}
	return c, nil
}

// Move moves a customer, by name or address, to another shard, if that one's replicas know the
// address: a copy of the key is in its directory then, called as the customer is. If they do
// not, the copy is made, for the next "shard refill" and "shard installed", and the customer's
// MovingTo says where it is to move by the same call.
func (r *Registry) Move(ctx context.Context, customer, shard, request string) (c Customer, moved bool, err error) {
	if r.shard(shard) == nil {
		err = fmt.Errorf("%q: %w", shard, ErrNoShard)
	} else {
		c, moved, err = r.once(ctx, customer, shard, request, func(e *entry) (bool, error) { return r.move(e, shard, request) })
	}
	if err != nil {
		return Customer{}, false, fmt.Errorf("moving a customer: %w", err)
	}
	return c, moved, nil
}

func (r *Registry) move(e *entry, shard, request string) (moved bool, err error) {
	r.mu.Lock()
	from, to := r.shards[e.Shard], r.shards[shard]
	r.mu.Unlock()
	next, wish := e.Customer, e.MovingTo
	next.MovingTo = ""
	switch {
	case e.State == Removed:
		return false, fmt.Errorf("%q: %w", e.Name, ErrRemoved)
	case e.Shard == shard && wish == "":
		return false, nil
	case e.Shard == shard:
		if err := r.put(e, next); err != nil {
			return false, err
		}
		r.cancel(e, wish)
		return false, nil
	case to == nil || to.dir == nil:
		return false, fmt.Errorf("%q: its directory cannot be used", shard)
	}
	if is, err := to.dir.Address(e.Name); err == nil && is == e.Address {
		next.Shard, next.Since, next.Changed, next.Confirmed = shard, now(), request, time.Time{}
		if err := r.put(e, next); err != nil {
			return false, err
		}
		r.changed(e, shard, request)
		r.setKeyed(e, true)
		if from != nil && from.dir != nil {
			r.leave(e, from)
		}
		if wish != shard {
			r.cancel(e, wish)
		}
		return true, nil
	}
	if from == nil || from.dir == nil {
		return false, fmt.Errorf("%q: the shard it is in, %q, cannot be used", e.Name, e.Shard)
	}
	if err := to.dir.Bring(filepath.Join(from.dir.path, e.place()), e.Address, e.Name); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	if wish == shard {
		return false, nil
	}
	next.MovingTo = shard
	if err := r.put(e, next); err != nil {
		return false, err
	}
	r.cancel(e, wish)
	return false, nil
}

// cancel takes the copy of a customer's key out of a shard that it is not to move to any
// more; an empty name stands for none. What fails, the next Configure makes up for.
func (r *Registry) cancel(e *entry, name string) {
	r.mu.Lock()
	s := r.shards[name]
	r.mu.Unlock()
	if s == nil || s.dir == nil {
		return
	}
	if is, err := s.dir.Address(e.Name); err == nil && is == e.Address {
		r.leave(e, s)
		return
	}
	if err := os.RemoveAll(filepath.Join(s.dir.path, pendingDir, e.label)); err != nil {
		r.log.Warn("a copy of a customer's key stays among the pending keys", "customer", e.Called(), "shard", name, "error", err)
	}
}

// leave puts the key that a customer has in a shard it is not in any more among those of
// the removed there, since that shard's replicas still know the address.
func (r *Registry) leave(e *entry, from *shard) {
	fresh, err := from.dir.retire(e.Name, e.Address)
	if err != nil {
		r.log.Warn("the key of a customer stays in a shard that it is not in", "customer", e.Called(), "shard", from.Name, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from.Removed += fresh
}
