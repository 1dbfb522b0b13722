package state

import (
	"context"
	"errors"
	"fmt"
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

// request is one caller's changes and events to write.
type request struct {
	changes  []Change
	events   [][]byte
	versions []uint64
	err      error
	done     chan struct{}
}

// nextBatch takes the first requests.
func nextBatch(waiting []*request) (batch, rest []*request) {
	n := min(maxBatch, len(waiting))
	return waiting[:n], waiting[n:]
}

// submit queues a request and waits until it is done.
func (d *DB) submit(ctx context.Context, r *request) ([]uint64, error) {
	r.done = make(chan struct{})
	err := ctx.Err()
	switch {
	case d.readOnly:
		err = ErrReadOnly
	case err == nil && !d.queue.Add(r, d.write):
		err = ErrClosed
	}
	if err == nil {
		select {
		case <-r.done:
			err = r.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	return r.versions, nil
}

// write writes pending requests, batch by batch, until there are none.
func (d *DB) write() {
	for batch := d.queue.Next(nextBatch); len(batch) > 0; batch = d.queue.Next(nextBatch) {
		d.writeBatch(batch)
	}
}

func (d *DB) writeBatch(batch []*request) {
	var records, events []*request
	for _, r := range batch {
		if len(r.events) == 0 {
			records = append(records, r)
		} else {
			events = append(events, r)
		}
	}
	d.commit(records)
	d.commit(events) // alone: the disk may have room for the records only
}

// commit writes requests in one transaction and ends them. A conflict, or a damaged
// record, is the request's alone; any other error is that of all.
func (d *DB) commit(batch []*request) {
	if len(batch) == 0 {
		return
	}
	err := d.transact(batch)
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
		close(r.done)
	}
}

func (d *DB) transact(batch []*request) error {
	if err := d.writable(); err != nil {
		return err
	}
	err := guarded(func() error {
		return update(d.bolt, func(w *writer) (err error) {
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
			return nil
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
