package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/state"
)

// copiedPrefixes are those of the keys of which a Copied keeps copies: what operators said,
// whichever manager heard it.
var copiedPrefixes = []state.Key{state.OperatorPrefix, state.CustomerPrefix, state.ClientsPrefix}

// copiedKey is the local key of the ID of the cluster that the copies are of.
const copiedKey = "cluster/copied"

// Copies are where a Copied keeps its copies, as in a *state.DB.
type Copies interface {
	Local
	List(prefix state.Key) ([]state.Entry, error)
}

// Copied is the records of a Store for those who also need them when this manager starts
// while the engine does not answer: until the Store was read, it answers with what the
// manager's own store has of them, and Swap is refused.
//
// The first time that the manager is in a cluster, what its own store has of before is put
// into the cluster, but for what that has already.
type Copied struct {
	store  *Store
	copies Copies
	log    *slog.Logger
	wakes  chan struct{} // there is something to copy
	joins  chan struct{} // closed when the store was read

	telling sync.Mutex // held while subscribers are told

	mu          sync.Mutex // protects the fields below
	joined      bool       // the store was read, and counts
	stale       map[state.Key]bool
	subscribers map[*subscriber]bool
}

// NewCopied returns the records of a store with copies, for which Run has to be called.
func NewCopied(store *Store, copies Copies, log *slog.Logger) *Copied {
	return &Copied{
		store: store, copies: copies, log: log, wakes: make(chan struct{}, 1), joins: make(chan struct{}),
		stale: make(map[state.Key]bool), subscribers: make(map[*subscriber]bool),
	}
}

// ofCopy is in the version of a copy, which no record in the cluster has.
const ofCopy = 1 << 63

// Get is that of a Store or, until that was read, of the copies.
func (c *Copied) Get(key state.Key) ([]byte, uint64, error) {
	if c.Joined() {
		return c.store.Get(key)
	}
	value, version, err := c.copies.Get(key)
	if version != 0 {
		version |= ofCopy
	}
	return value, version, err
}

// List is that of a Store or, until that was read, of the copies.
func (c *Copied) List(prefix state.Key) ([]state.Entry, error) {
	if c.Joined() {
		return c.store.List(prefix)
	}
	list, err := c.copies.List(prefix)
	for i := range list {
		list[i].Version |= ofCopy
	}
	return list, err
}

// Joined reports whether the store was read, and counts, and not the copies.
func (c *Copied) Joined() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joined
}

// Wait waits until the store was read and subscribers were told of it, or until ctx ends.
func (c *Copied) Wait(ctx context.Context) error {
	select {
	case <-c.joins:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Swap is that of a Store. The error is ErrUnread, too, until the copies were compared with it.
func (c *Copied) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	if !c.Joined() {
		return nil, fmt.Errorf("storing: %w", errors.Join(ErrUnread, c.store.Err()))
	}
	return c.store.Swap(ctx, changes...)
}

// Fresh is that of a Store.
func (c *Copied) Fresh(ctx context.Context, keys ...state.Key) error {
	return c.store.Fresh(ctx, keys...)
}

// Subscribe is that of a Store. When the store was read for the first time, all keys that it
// or the copies have count as changed.
func (c *Copied) Subscribe(prefix state.Key, f func(changed []state.Key)) (stop func()) {
	sub := &subscriber{prefix, f}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers[sub] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, sub)
	}
}

// copyAgain is when a copy that could not be written is tried again.
const copyAgain = 10 * time.Second

// Run follows the store until ctx ends.
func (c *Copied) Run(ctx context.Context) {
	defer c.store.Subscribe("", c.changed)()
	var failed error
	note := func(what string, err error) {
		if err != nil && failed == nil && ctx.Err() == nil {
			c.log.Warn(what, "error", err)
		}
		failed = err
	}
	for {
		err := c.store.Ready(ctx) // the store logs why it cannot be read
		if err == nil {
			err = c.join(ctx)
			note("bringing into the cluster what this manager knows", err)
		}
		if err == nil {
			break
		}
		if !backoff.Sleep(ctx, retryMax) {
			return
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wakes:
		}
		err := c.copy(ctx)
		if note("keeping copies of what is the cluster's", err); err != nil {
			backoff.Sleep(ctx, copyAgain)
			wake(c.wakes)
		}
	}
}

// join has the store count, which was read.
func (c *Copied) join(ctx context.Context) error {
	if err := c.bring(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.joined = true // what changes from now on is told by itself
	c.mu.Unlock()
	all := map[state.Key]bool{}
	for _, prefix := range copiedPrefixes {
		for _, records := range []interface {
			List(state.Key) ([]state.Entry, error)
		}{c.store, c.copies} {
			list, err := records.List(prefix)
			if err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.joined = false
				return err
			}
			for _, e := range list {
				all[e.Key] = true
			}
		}
	}
	defer close(c.joins)
	c.changed(slices.Sorted(maps.Keys(all)))
	return nil
}

// bring puts into the cluster what this manager has from before it was there.
func (c *Copied) bring(ctx context.Context) error {
	id, version, err := c.copies.Get(copiedKey)
	if err != nil || string(id) == c.store.ID() {
		return err
	}
	var own []state.Change
	for _, prefix := range copiedPrefixes {
		list, err := c.copies.List(prefix)
		if err != nil {
			return err
		}
		for _, e := range list {
			if _, there, err := c.store.Get(e.Key); err == nil && there == 0 {
				own = append(own, state.Change{Key: e.Key, Value: e.Value})
			}
		}
	}
	for batch := range slices.Chunk(own, MaxOps) {
		if err := c.create(ctx, batch); err != nil {
			return err
		}
	}
	_, err = c.copies.Swap(ctx, state.Change{Key: copiedKey, Version: version, Value: []byte(c.store.ID())})
	return err
}

// create creates those records that are not there yet.
func (c *Copied) create(ctx context.Context, changes []state.Change) error {
	for len(changes) > 0 {
		_, err := c.store.Swap(ctx, changes...)
		there := (*state.ConflictError)(nil)
		if !errors.As(err, &there) {
			return err
		}
		changes = slices.DeleteFunc(slices.Clone(changes), func(change state.Change) bool { return change.Key == there.Key })
	}
	return nil
}

// changed tells subscribers of changed keys, and has them copied.
func (c *Copied) changed(keys []state.Key) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.mu.Lock()
	if !c.joined {
		c.mu.Unlock()
		return // join will compare everything
	}
	for _, key := range keys {
		if slices.ContainsFunc(copiedPrefixes, func(prefix state.Key) bool { return strings.HasPrefix(string(key), string(prefix)) }) {
			c.stale[key] = true
		}
	}
	subscribers := slices.Collect(maps.Keys(c.subscribers))
	c.mu.Unlock()
	wake(c.wakes)
	tell(subscribers, keys)
}

// copy writes the copies that are not what the store has. What does not open there stays.
func (c *Copied) copy(ctx context.Context) error {
	c.mu.Lock()
	stale := slices.Collect(maps.Keys(c.stale))
	clear(c.stale)
	c.mu.Unlock()
	for batch := range slices.Chunk(stale, MaxOps) {
		var changes []state.Change
		var err error
		for _, key := range batch {
			is, version, failed := c.store.Get(key)
			if failed != nil {
				continue
			}
			was, old, failed := c.copies.Get(key)
			switch {
			case failed != nil:
				err = failed
			case version == 0 && old != 0:
				changes = append(changes, state.Change{Key: key, Version: old})
			case version != 0 && (old == 0 || !bytes.Equal(was, is)):
				changes = append(changes, state.Change{Key: key, Version: old, Value: is})
			}
		}
		if err == nil && len(changes) > 0 {
			_, err = c.copies.Swap(ctx, changes...)
		}
		if err != nil {
			c.mu.Lock()
			for _, key := range stale {
				c.stale[key] = true
			}
			c.mu.Unlock()
			return err
		}
	}
	return nil
}
