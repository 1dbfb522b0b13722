package hosting

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	// conflictTries is how often a change is tried while other managers change the same.
	conflictTries = 10
)

// heldError says that another manager has given the name or done the request.
type heldError struct{ by descriptor.Address }

func (e heldError) Error() string {
	return "another manager did it for " + e.by.Short() + " at the same time"
}

// Unwrap has it be a conflict.
func (heldError) Unwrap() error { return state.ErrConflict }

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
// key stands for. It is a heldError if the record says that somebody has it, who still does.
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
		err = heldError{other}
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
	if held := (heldError{}); errors.As(err, &held) {
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
