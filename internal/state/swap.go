package state

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
)

const (
	maxKey   = 512
	maxValue = 64 << 20
	maxBatch = 1000 // requests in one transaction
)

// Swap makes the changes if every record has the version expected, all or none,
// and returns the records' new versions, 0 for a deleted one. It returns when the
// changes are on the disk. Swaps at the same time share a transaction and its
// sync; one that fails with a *ConflictError does not affect the others.
//
// After any other error, that of ctx included, the changes may have been made:
// read the records again before deciding anything.
func (d *DB) Swap(ctx context.Context, changes ...Change) ([]uint64, error) {
	seen := make(map[Key]bool, len(changes))
	for _, c := range changes {
		var err error
		switch {
		case len(c.Key) == 0 || len(c.Key) > maxKey:
			err = fmt.Errorf("a key of %d bytes; want 1 to %d", len(c.Key), maxKey)
		case len(c.Value) > maxValue:
			err = fmt.Errorf("%s: a value of %d bytes; want at most %d", c.Key, len(c.Value), maxValue)
		case seen[c.Key]:
			err = fmt.Errorf("%s: changed twice", c.Key)
		}
		if err != nil {
			return nil, fmt.Errorf("storing: %w", err)
		}
		seen[c.Key] = true
	}
	return d.submit(ctx, &request{changes: changes})
}

// AppendEvents adds events at the end of the ring and removes the oldest beyond
// its bound. It returns when they are on the disk.
func (d *DB) AppendEvents(ctx context.Context, events ...[]byte) error {
	_, err := d.submit(ctx, &request{events: events})
	return err
}

// Events returns the newest events, at most n, that keep wants, oldest first. A
// nil keep wants all; it must not use the store, nor keep the slice.
func (d *DB) Events(n int, keep func([]byte) bool) ([][]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var list [][]byte
	err := d.read("reading events", func(s source) (err error) {
		list, err = s.events(n, keep)
		return err
	})
	return list, err
}

// request is what one caller wants written.
type request struct {
	changes  []Change
	events   [][]byte
	versions []uint64
	err      error
	done     chan struct{}
}

// queue holds the requests that wait for the writer. The writer is a goroutine
// that ends when there is nothing left to write.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	writing bool
	closed  bool
	idle    *sync.Cond // writing has become false
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for q.writing {
		q.idle.Wait()
	}
}

// submit queues a request and waits for its end.
func (d *DB) submit(ctx context.Context, r *request) ([]uint64, error) {
	if d.readOnly {
		return nil, fmt.Errorf("storing: %w", ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	r.done = make(chan struct{})
	q := &d.queue
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, fmt.Errorf("storing: %w", ErrClosed)
	}
	q.waiting = append(q.waiting, r)
	if !q.writing {
		q.writing = true
		go d.write()
	}
	q.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("storing: %w", ctx.Err())
	}
	if r.err != nil {
		return nil, fmt.Errorf("storing: %w", r.err)
	}
	return r.versions, nil
}

// write writes what waits, batch by batch, until nothing does.
func (d *DB) write() {
	q := &d.queue
	for {
		q.mu.Lock()
		batch := q.waiting[:min(maxBatch, len(q.waiting))]
		q.waiting = q.waiting[len(batch):]
		if len(batch) == 0 {
			q.waiting, q.writing = nil, false
			q.idle.Broadcast()
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		if err := d.commit(batch); err != nil {
			for _, r := range batch {
				if r.err == nil {
					r.err = err
				}
			}
		}
		for _, r := range batch {
			close(r.done)
		}
	}
}

// commit writes a batch in one transaction. A conflict, or a damaged record, is the
// request's alone; any other error is returned and is the whole batch's.
func (d *DB) commit(batch []*request) error {
	if err := d.writable(); err != nil {
		return err
	}
	err := guarded(func() error {
		return d.bolt.Update(func(tx *bbolt.Tx) error {
			w, err := newWriter(tx)
			if err != nil {
				return err
			}
			for _, r := range batch {
				var sums []uint64
				if sums, r.err = w.check(r.changes); r.err != nil {
					continue
				}
				if r.versions, err = w.apply(r.changes, sums); err == nil {
					err = w.appendEvents(r.events, d.opt.Events)
				}
				if err != nil {
					return err
				}
			}
			return w.finish()
		})
	})
	if errors.As(err, new(*panicError)) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = fmt.Errorf("%w; start balancer again to have it put aside", err)
	}
	return err
}

// writable opens the store for writing if that was not possible before. Only the
// writer calls it.
func (d *DB) writable() error {
	d.mu.RLock()
	opened, broken := d.bolt != nil, d.broken
	d.mu.RUnlock()
	if opened || broken != nil {
		return broken
	}
	if err := d.open(); err != nil {
		return err
	}
	d.log.Info("the state can be stored again")
	return nil
}
