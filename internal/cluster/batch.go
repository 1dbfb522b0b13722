package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/internal/state"
)

const (
	maxKey = 512
	// maxBytes is the size of the sealed values of a transaction: etcd refuses requests
	// of more than 1.5 MiB unless it is told otherwise.
	maxBytes = 1 << 20
)

// request is one caller's changes.
type request struct {
	ctx      context.Context
	changes  []state.Change // with values of its own
	ops      []Op
	bytes    int  // of the ops' values
	leased   bool // it hangs on a lease
	versions []uint64
	err      error
	done     chan struct{}
}

// nextBatch takes the requests of the next transaction. Those whose callers have left are
// dropped. Requests for the same record come one after the other; one with a lease is
// alone, since the lease may have ended, and the first: thousands of services may wait, and it
// says that this manager is alive.
func nextBatch(waiting []*request) (batch, rest []*request) {
	if n := slices.IndexFunc(waiting, func(r *request) bool { return r.leased }); n > 0 {
		r := waiting[n]
		waiting = slices.Insert(slices.Delete(waiting, n, n+1), 0, r)
	}
	ops, size := 0, 0
	names := make(map[string]bool)
	for len(waiting) > 0 {
		r := waiting[0]
		if r.err = r.ctx.Err(); r.err != nil {
			close(r.done)
			waiting = waiting[1:]
			continue
		}
		again := slices.ContainsFunc(r.ops, func(op Op) bool { return names[op.Key] })
		full := ops+len(r.ops) > MaxOps || size+r.bytes > maxBytes
		if len(batch) > 0 && (again || full || r.leased || batch[0].leased) {
			break
		}
		for _, op := range r.ops {
			names[op.Key] = true
		}
		ops, size = ops+len(r.ops), size+r.bytes
		batch = append(batch, r)
		waiting = waiting[1:]
	}
	return batch, waiting
}

// deletes reports whether a request only deletes, which an engine without space does.
func deletes(r *request) bool {
	return !slices.ContainsFunc(r.ops, func(op Op) bool { return op.Value != nil })
}

// prepare checks and seals changes.
func (s *Store) prepare(ctx context.Context, lease Lease, changes []state.Change) (*request, error) {
	r := &request{ctx: ctx, changes: slices.Clone(changes), leased: lease != 0, done: make(chan struct{})}
	if len(changes) > MaxOps {
		return nil, fmt.Errorf("%d changes at once, want at most %d", len(changes), MaxOps)
	}
	seen := make(map[state.Key]bool, len(changes))
	for _, c := range changes {
		switch {
		case len(c.Key) == 0 || len(c.Key) > maxKey:
			return nil, fmt.Errorf("a key of %d bytes; want 1 to %d", len(c.Key), maxKey)
		case seen[c.Key]:
			return nil, fmt.Errorf("%s: changed twice", c.Key)
		}
		seen[c.Key] = true
		if c.Value != nil {
			r.bytes += sealedSize(c.Key, c.Value)
		}
	}
	if r.bytes > maxBytes {
		return nil, fmt.Errorf("values of %d bytes; want at most %d", r.bytes, maxBytes)
	}
	sealer := s.sealer.Load()
	for i, c := range changes {
		op := Op{Key: s.name(sealer, c.Key), Version: int64(c.Version)}
		if c.Value != nil {
			op.Value, op.Lease = sealer.seal(op.Key, c.Key, c.Value), lease
			r.changes[i].Value = bytes.Clone(c.Value)
		}
		r.ops = append(r.ops, op)
	}
	return r, nil
}

// name returns the name of a record, which the mirror may know.
func (s *Store) name(sealer *sealer, key state.Key) string {
	s.mu.RLock()
	r := s.mirror.keys[key]
	s.mu.RUnlock()
	if r != nil {
		return r.name
	}
	return sealer.name(key)
}

// write makes waiting requests, batch by batch, until there are none.
func (s *Store) write() {
	for batch := s.queue.Next(nextBatch); len(batch) > 0; batch = s.queue.Next(nextBatch) {
		for tries := 0; len(batch) > 0; {
			rest := s.transact(batch)
			if tries++; len(rest) < len(batch) {
				tries = 0
			}
			if batch = rest; tries == 3 {
				batch = end(batch, fmt.Errorf("%w: it refuses changes and does not say why", ErrUnavailable))
			}
		}
	}
}

// transact makes requests in one transaction, ends those that have a verdict, and returns
// the others, which are to be tried again.
func (s *Store) transact(batch []*request) []*request {
	check, err := s.check()
	if err != nil {
		return end(batch, err)
	}
	ops := []Op{check}
	for _, r := range batch {
		ops = append(ops, r.ops...)
	}
	sent := s.now()
	seen := s.seenNow()
	revision, made, items, err := s.cfg.Engine.Txn(s.ctx, ops)
	s.count(err, s.now().Sub(sent))
	switch {
	case errors.Is(err, ErrNoSpace) && slices.ContainsFunc(batch, deletes) && !deletes(batch[0]):
		// Those that only delete may go on alone.
		rest := slices.DeleteFunc(slices.Clone(batch), func(r *request) bool { return !deletes(r) })
		end(slices.DeleteFunc(batch, deletes), err)
		return rest
	case err != nil:
		return end(batch, err)
	case made:
		s.made(batch, revision, sent)
	case len(items) != len(ops):
		return end(batch, fmt.Errorf("%d operations were answered by %d", len(ops), len(items)))
	case items[0].Version != check.Version:
		// Nothing was changed, and nothing here can be believed any more.
		if err := s.again(s.ctx); err != nil {
			return end(batch, err)
		}
		return batch
	default:
		return s.refused(batch, revision, items[1:], s.wentBack(revision, items[1:], seen))
	}
	if revision < seen {
		s.interrupt() // the engine went back
	}
	return nil
}

// end ends requests with an error.
func end(batch []*request, err error) []*request {
	for _, r := range batch {
		r.err = err
		close(r.done)
	}
	return nil
}

// made takes the changes of requests into the mirror, and ends them.
func (s *Store) made(batch []*request, revision int64, sent time.Time) {
	s.mu.Lock()
	var changed []state.Key
	for _, r := range batch {
		r.versions = make([]uint64, len(r.changes))
		for i, op := range r.ops {
			if op.Value == nil {
				changed = append(changed, s.mirror.remove(op.Key, revision))
				continue
			}
			r.versions[i] = uint64(revision)
			changed = append(changed, s.mirror.put(Item{op.Key, op.Value, revision, op.Lease}, opened{key: r.changes[i].Key, value: r.changes[i].Value}))
		}
		s.stats.Swaps.Made++
	}
	s.seen = max(s.seen, revision)
	s.expectLocked(revision, sent)
	s.changedLocked(changed)
	s.mu.Unlock()
	end(batch, nil)
}

// refused takes what the engine has into the mirror, ends the requests that expected other
// versions, and returns the rest. back says that the engine went back.
func (s *Store) refused(batch []*request, revision int64, items []Item, back bool) []*request {
	s.apply(revision, items)
	if back {
		// Have the mirror be what it is now before the callers look. If that fails, so
		// will what they do then.
		_ = s.again(s.ctx)
	}
	var rest []*request
	failed := uint64(0)
	for _, r := range batch {
		now := items[:len(r.ops)]
		items = items[len(r.ops):]
		i := 0
		for i < len(now) && now[i].Version == r.ops[i].Version {
			i++
		}
		if i == len(now) {
			rest = append(rest, r)
			continue
		}
		r.err = &state.ConflictError{Key: r.changes[i].Key, Want: r.changes[i].Version, Have: uint64(now[i].Version)}
		if now[i].Version != 0 {
			if o := s.sealer.Load().open(now[i : i+1]); o[0].err != nil {
				r.err = fmt.Errorf("%s: %w", r.changes[i].Key, o[0].err)
			}
		}
		close(r.done)
		failed++
	}
	s.mu.Lock()
	s.stats.Swaps.Conflicts += failed
	s.mu.Unlock()
	return rest
}
