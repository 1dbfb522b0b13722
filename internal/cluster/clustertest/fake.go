// Package clustertest has an engine in memory for tests in virtual time, with the faults that a
// real one and the network to it have.
package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/internal/cluster"
)

const (
	maxOps   = 128
	maxBytes = 3 << 19 // 1.5 MiB
	progress = time.Minute
	sweep    = 500 * time.Millisecond // how often leases are looked at
	keep     = 10_000                 // changes for watches, at least
)

// Fake is an engine that several managers share, each through a Client of its own. Its
// methods break it for all; those of a Client for one. It is safe for concurrent use.
type Fake struct {
	mu       sync.Mutex
	items    map[string]cluster.Item
	revision int64
	history  []change // since compacted
	from     int64    // first revision in history
	leases   map[cluster.Lease]*lease
	granted  cluster.Lease
	moved    chan struct{} // closed at every change, of anything
	era      int           // grows when all watches have to break
	down     bool
	full     bool
	written  [][]byte // see KeepWritten
}

// change is what one revision changed.
type change struct {
	revision int64
	at       time.Time
	items    []cluster.Item
}

type lease struct {
	lasts time.Duration
	timer *time.Timer
}

// New returns an empty engine.
func New() *Fake {
	f := &Fake{moved: make(chan struct{})}
	f.emptyLocked()
	return f
}

func (f *Fake) emptyLocked() {
	for _, l := range f.leases {
		l.timer.Stop()
	}
	f.items, f.leases = make(map[string]cluster.Item), make(map[cluster.Lease]*lease)
	f.revision, f.history, f.from = 1, nil, 2
}

// movedLocked wakes all who wait for a change.
func (f *Fake) movedLocked() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// do changes f under its lock.
func (f *Fake) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.movedLocked()
}

// Down says whether the engine has no quorum. While it has none no lease ends; afterwards all
// last as long as when they were granted.
func (f *Fake) Down(down bool) {
	f.do(func() {
		for id, l := range f.leases {
			if l.timer.Stop(); !down {
				f.armLocked(id, l)
			}
		}
		f.down = down
	})
}

// Full says whether the engine takes nothing new.
func (f *Fake) Full(full bool) { f.do(func() { f.full = full }) }

// BreakWatches ends all watches.
func (f *Fake) BreakWatches() { f.do(func() { f.era++ }) }

// Compact forgets all revisions up to now.
func (f *Fake) Compact() { f.do(func() { f.history, f.from = nil, f.revision+1 }) }

// Wipe loses everything, the revision too.
func (f *Fake) Wipe() { f.do(func() { f.era++; f.emptyLocked() }) }

// Snapshot is what an engine had once.
type Snapshot struct {
	items    map[string]cluster.Item
	revision int64
}

// Snapshot returns what the engine has now.
func (f *Fake) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Snapshot{maps.Clone(f.items), f.revision}
}

// GoBack has the engine be as it was, leases apart.
func (f *Fake) GoBack(s Snapshot) {
	f.do(func() {
		f.era++
		f.items, f.revision, f.history, f.from = maps.Clone(s.items), s.revision, nil, s.revision+1
	})
}

// EndLeases ends all leases, as a fault of the engine's.
func (f *Fake) EndLeases() {
	f.do(func() {
		for id := range f.leases {
			f.endLocked(id)
		}
	})
}

// Items returns what the engine has, by key.
func (f *Fake) Items() []cluster.Item {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rangeLocked("")
}

// Revision returns the engine's revision.
func (f *Fake) Revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

// Put writes a value whatever is there, nil to delete it, as somebody with rights would.
func (f *Fake) Put(key string, value []byte) {
	f.do(func() { f.commitLocked([]cluster.Item{{Key: key, Value: value}}) })
}

// DeleteAll deletes all keys that begin with prefix at one revision.
func (f *Fake) DeleteAll(prefix string) {
	f.do(func() {
		var items []cluster.Item
		for _, i := range f.rangeLocked(prefix) {
			items = append(items, cluster.Item{Key: i.Key})
		}
		f.commitLocked(items)
	})
}

// KeepWritten has Written know what is written from now on.
func (f *Fake) KeepWritten() { f.do(func() { f.written = [][]byte{} }) }

// Written returns the keys and values that were written since KeepWritten.
func (f *Fake) Written() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.written)
}

func (f *Fake) rangeLocked(prefix string) []cluster.Item {
	var list []cluster.Item
	for key, item := range f.items {
		if strings.HasPrefix(key, prefix) {
			list = append(list, item)
		}
	}
	slices.SortFunc(list, func(a, b cluster.Item) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// commitLocked makes changes at the next revision, if there are any. The caller wakes who waits.
func (f *Fake) commitLocked(items []cluster.Item) {
	items = slices.DeleteFunc(items, func(i cluster.Item) bool { return i.Value == nil && f.items[i.Key].Version == 0 })
	if len(items) == 0 {
		return
	}
	f.revision++
	for i := range items {
		item := &items[i]
		if item.Value == nil {
			delete(f.items, item.Key)
			continue
		}
		item.Version = f.revision
		f.items[item.Key] = *item
		if f.written != nil {
			f.written = append(f.written, []byte(item.Key), item.Value)
		}
	}
	f.history = append(f.history, change{f.revision, time.Now(), items})
	if len(f.history) == 2*keep {
		f.history = slices.Clone(f.history[keep:])
		f.from = f.history[0].revision
	}
}

func (f *Fake) armLocked(id cluster.Lease, l *lease) {
	l.timer = time.AfterFunc(l.lasts+sweep, func() {
		f.do(func() {
			if f.leases[id] == l && !f.down {
				f.endLocked(id)
			}
		})
	})
}

func (f *Fake) endLocked(id cluster.Lease) {
	f.leases[id].timer.Stop()
	delete(f.leases, id)
	var items []cluster.Item
	for _, i := range f.rangeLocked("") {
		if i.Lease == id {
			items = append(items, cluster.Item{Key: i.Key})
		}
	}
	f.commitLocked(items)
}

// Faults are those of one manager's connection. The zero Faults is none.
type Faults struct {
	Cut    bool          // nothing goes through
	Denied bool          // the user is refused
	Slow   time.Duration // that every call takes
	Late   time.Duration // by which the watch is late
	Mute   bool          // the watch shows nothing and does not break

	LoseRequests int // of the next transactions so many are not made, and nobody knows
	LoseAnswers  int // of the next ones so many are made, and nobody knows
}

// Client is a manager's connection. It implements cluster.Engine and cluster.Leases.
type Client struct {
	f       *Fake
	timeout time.Duration
	faults  Faults // protected by f.mu

	calls int
}

var (
	_ cluster.Engine = (*Client)(nil)
	_ cluster.Leases = (*Client)(nil)
)

// Client returns a connection without faults, whose calls give up after 5 s.
func (f *Fake) Client() *Client { return &Client{f: f, timeout: 5 * time.Second} }

// Set changes the faults.
func (c *Client) Set(change func(*Faults)) { c.f.do(func() { change(&c.faults) }) }

// Calls returns how often the engine was asked.
func (c *Client) Calls() int {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return c.calls
}

// call calls f under the engine's lock if it can be reached. sent tells whether f was
// called; if the answer is lost after that, the error is unknown.
func (c *Client) call(ctx context.Context, unknown error, f func() error) error {
	c.f.mu.Lock()
	c.calls++
	slow := c.faults.Slow
	c.f.mu.Unlock()
	limit := time.Now().Add(c.timeout)
	if !sleep(ctx, min(slow/2, c.timeout)) {
		return fmt.Errorf("%w: %w", cluster.ErrUnavailable, context.Cause(ctx))
	}
	c.f.mu.Lock()
	if c.unreachableLocked() || slow >= 2*c.timeout {
		c.f.mu.Unlock()
		sleep(ctx, time.Until(limit))
		return cluster.ErrUnavailable
	}
	if c.faults.Denied {
		c.f.mu.Unlock()
		return cluster.ErrDenied
	}
	err := f()
	c.f.movedLocked()
	c.f.mu.Unlock()
	if !sleep(ctx, min(slow-slow/2, time.Until(limit))) || slow > c.timeout || errors.Is(err, errLost) && sleep(ctx, time.Until(limit)) {
		return unknown
	}
	return err
}

// errLost says that an answer is lost.
var errLost = errors.New("lost")

func (c *Client) unreachableLocked() bool { return c.f.down || c.faults.Cut }

// sleep waits for d, and reports whether ctx lives.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return ctx.Err() == nil
}

// Range implements cluster.Engine.
func (c *Client) Range(ctx context.Context, prefix string) (items []cluster.Item, revision int64, err error) {
	err = c.call(ctx, cluster.ErrUnavailable, func() error {
		items, revision = c.f.rangeLocked(prefix), c.f.revision
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return items, revision, nil
}

// Txn implements cluster.Engine.
func (c *Client) Txn(ctx context.Context, ops []cluster.Op) (revision int64, made bool, items []cluster.Item, err error) {
	ops = slices.Clone(ops)
	if err := check(ops); err != nil {
		return 0, false, nil, err
	}
	err = c.call(ctx, cluster.ErrUnknown, func() (err error) {
		if c.faults.LoseRequests > 0 {
			c.faults.LoseRequests--
			return errLost
		}
		if revision, made, items, err = c.f.txnLocked(ops); err == nil && c.faults.LoseAnswers > 0 {
			c.faults.LoseAnswers--
			err = errLost
		}
		return err
	})
	if err != nil {
		return 0, false, nil, err
	}
	return revision, made, items, nil
}

// check refuses what a real engine refuses.
func check(ops []cluster.Op) error {
	size := 0
	seen := make(map[string]bool)
	for _, op := range ops {
		if seen[op.Key] {
			return fmt.Errorf("%s is in a transaction twice", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
	}
	if len(ops) > maxOps || size > maxBytes {
		return fmt.Errorf("a transaction of %d operations, %d bytes", len(ops), size)
	}
	return nil
}

func (f *Fake) txnLocked(ops []cluster.Op) (revision int64, made bool, items []cluster.Item, err error) {
	if f.full && slices.ContainsFunc(ops, func(op cluster.Op) bool { return op.Value != nil }) {
		return 0, false, nil, cluster.ErrNoSpace
	}
	made = true
	for _, op := range ops {
		item := f.items[op.Key]
		item.Key = op.Key
		items = append(items, item)
		made = made && item.Version == op.Version
	}
	if !made {
		return f.revision, false, items, nil
	}
	var changes []cluster.Item
	for _, op := range ops {
		if op.Check {
			continue
		}
		if op.Lease != 0 && f.leases[op.Lease] == nil {
			return 0, false, nil, cluster.ErrLeaseLost
		}
		changes = append(changes, cluster.Item{Key: op.Key, Value: slices.Clone(op.Value), Lease: op.Lease})
	}
	f.commitLocked(changes)
	return f.revision, true, nil, nil
}

// Watch implements cluster.Engine. A connection that is cut breaks after a while.
func (c *Client) Watch(ctx context.Context, prefix string, from int64, show func(int64, []cluster.Item)) error {
	c.f.mu.Lock()
	era := c.f.era
	c.f.mu.Unlock()
	if err := c.call(ctx, cluster.ErrUnavailable, func() error { return nil }); err != nil {
		return err
	}
	told, heard := time.Now(), time.Now()
	for ctx.Err() == nil {
		c.f.mu.Lock()
		now, moved, faults, cut := time.Now(), c.f.moved, c.faults, c.unreachableLocked()
		broken, compacted, revision := era != c.f.era, from < c.f.from, c.f.revision
		next := c.f.afterLocked(from)
		c.f.mu.Unlock()
		if !cut {
			heard = now
		}
		wait := progress - now.Sub(told)
		switch {
		case broken || now.Sub(heard) >= 2*c.timeout:
			return fmt.Errorf("watching: %w", cluster.ErrUnavailable)
		case cut:
			wait = heard.Add(2 * c.timeout).Sub(now)
		case faults.Mute:
			wait = progress
		case compacted:
			return cluster.ErrCompacted
		case next.revision != 0:
			if wait = next.at.Add(faults.Late).Sub(now); wait > 0 {
				break
			}
			from, told = next.revision+1, now
			if items := slices.DeleteFunc(slices.Clone(next.items), func(i cluster.Item) bool { return !strings.HasPrefix(i.Key, prefix) }); len(items) > 0 {
				show(next.revision, items)
			}
			continue
		case wait <= 0:
			told = now
			show(revision, nil)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-moved:
		case <-timer.C:
		}
		timer.Stop()
	}
	return context.Cause(ctx)
}

// afterLocked returns the first change from a revision on, a zero one if there is none.
func (f *Fake) afterLocked(from int64) change {
	i, _ := slices.BinarySearchFunc(f.history, from, func(h change, from int64) int { return cmp.Compare(h.revision, from) })
	if i == len(f.history) {
		return change{}
	}
	return f.history[i]
}

// Grant implements cluster.Leases.
func (c *Client) Grant(ctx context.Context, lasts time.Duration) (id cluster.Lease, err error) {
	err = c.call(ctx, cluster.ErrUnavailable, func() error {
		if c.f.full {
			return cluster.ErrNoSpace
		}
		c.f.granted++
		id = c.f.granted
		l := &lease{lasts: lasts}
		c.f.leases[id] = l
		c.f.armLocked(id, l)
		return nil
	})
	return id, err
}

// KeepAlive implements cluster.Leases.
func (c *Client) KeepAlive(ctx context.Context, id cluster.Lease) error {
	return c.call(ctx, cluster.ErrUnavailable, func() error {
		l := c.f.leases[id]
		if l == nil {
			return cluster.ErrLeaseLost
		}
		l.timer.Stop()
		c.f.armLocked(id, l)
		return nil
	})
}

// Revoke implements cluster.Leases.
func (c *Client) Revoke(ctx context.Context, id cluster.Lease) error {
	return c.call(ctx, cluster.ErrUnavailable, func() error {
		if c.f.leases[id] == nil {
			return cluster.ErrLeaseLost
		}
		c.f.endLocked(id)
		return nil
	})
}
