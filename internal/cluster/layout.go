package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"onionbalancer/internal/state"
)

// The layout record says which layout the records have, in its first byte, which is not
// sealed, and which cluster they are: a random ID that its first manager drew. Every
// transaction looks at its version. So nothing is written in an engine that was wiped, and
// a newer balancer that replaces the record stops all older ones at once.

// layoutKey is the key in the layout record's value.
const layoutKey state.Key = "layout"

// final reports whether an error says that the engine must not be changed.
func final(err error) bool {
	return errors.Is(err, ErrWiped) || errors.Is(err, ErrKey) || errors.Is(err, state.ErrNewer)
}

func (s *Store) prefix() string     { return s.sealer.Load().prefix }
func (s *Store) layoutName() string { return s.sealer.Load().layout() }

// check returns the operation that makes a transaction one of this cluster, or why there may
// be none.
func (s *Store) check() (Op, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.unreadLocked(); err != nil {
		return Op{}, err
	}
	return Op{Key: s.layoutName(), Version: s.layout, Check: true}, s.refusal
}

// judge returns the ID in the layout record, empty if it is to be created. others is how many
// other records there are.
func (s *Store) judge(own Item, others int) (id string, err error) {
	s.mu.RLock()
	known := s.id
	s.mu.RUnlock()
	if own.Version == 0 {
		if known == "" && others == 0 {
			return "", nil
		}
		return "", fmt.Errorf("%w: it has no layout record, and %d others", ErrWiped, others)
	}
	number, err := layoutOf(own.Value)
	if err == nil {
		err = otherLayout(number)
	}
	if err != nil {
		return "", fmt.Errorf("reading the layout record: %w", err)
	}
	o := s.sealer.Load().open([]Item{own})[0]
	switch {
	case o.err != nil:
		return "", fmt.Errorf("%w: %w", ErrKey, o.err)
	case known != "" && known != string(o.value):
		return "", fmt.Errorf("%w: another cluster of this name is there", ErrWiped)
	}
	return string(o.value), nil
}

// create writes the layout record, unless another manager does at the same time.
func (s *Store) create() error {
	if all, _, _, err := s.cfg.Engine.Range(s.ctx, root, 0); err == nil {
		for _, item := range all {
			if !strings.HasPrefix(item.Key, s.prefix()) {
				s.log.Warn("there are other clusters in this store: if this manager belongs to one, its cluster key or the cluster's name is another here")
				break
			}
		}
	} // else the user may not look there
	s.log.Info("this is the first manager of the cluster", "cluster", s.cfg.Name)
	_, _, _, err := s.cfg.Engine.Txn(s.ctx, []Op{s.layoutOp(rand.Text(), 0)})
	return err
}

// layoutOp returns the operation that writes the layout record.
func (s *Store) layoutOp(id string, version int64) Op {
	name := s.layoutName()
	return Op{Key: name, Version: version, Value: s.sealer.Load().seal(name, layoutKey, []byte(id))}
}

// Restore writes records again into an engine that was wiped, and after them the layout
// record, so that all managers go on. It is for an operator to decide. Records that are there
// already stay as they are. What failed may be repeated.
func (s *Store) Restore(ctx context.Context, entries []state.Entry) error {
	if err := s.restore(ctx, entries); err != nil {
		return fmt.Errorf("restoring the store of the cluster: %w", err)
	}
	return nil
}

func (s *Store) restore(ctx context.Context, entries []state.Entry) error {
	if err := s.again(ctx); err == nil {
		return errors.New("it was not wiped")
	} else if !errors.Is(err, ErrWiped) {
		return err
	}
	own, _, _, err := s.cfg.Engine.Range(ctx, s.layoutName(), 0)
	if err != nil {
		return err
	}
	own = append(own, Item{}) // if there is none
	check := Op{Key: s.layoutName(), Version: own[0].Version, Check: true}
	sealer := s.sealer.Load()
	for _, part := range parts(entries) {
		ops := []Op{check}
		for _, e := range part {
			op := Op{Key: sealer.name(e.Key)}
			op.Value = sealer.seal(op.Key, e.Key, e.Value)
			ops = append(ops, op)
		}
		if err := s.createMissing(ctx, ops); err != nil {
			return err
		}
	}
	_, made, _, err := s.cfg.Engine.Txn(ctx, []Op{s.layoutOp(cmp.Or(s.ID(), rand.Text()), check.Version)})
	if err == nil && !made {
		err = errors.New("another manager did meanwhile")
	}
	return errors.Join(err, s.again(ctx))
}

// parts cuts entries into what transactions take.
func parts(entries []state.Entry) (parts [][]state.Entry) {
	begin, size := 0, 0
	for i, e := range entries {
		n := sealedSize(e.Key, e.Value)
		if i > begin && (i-begin == MaxOps || size+n > maxBytes) {
			parts = append(parts, entries[begin:i])
			begin, size = i, 0
		}
		size += n
	}
	if begin < len(entries) {
		parts = append(parts, entries[begin:])
	}
	return parts
}

// createMissing makes those of ops that create what is not there. The first of ops has to
// hold.
func (s *Store) createMissing(ctx context.Context, ops []Op) error {
	for len(ops) > 1 {
		_, made, items, err := s.cfg.Engine.Txn(ctx, ops)
		switch {
		case err != nil || made:
			return err
		case len(items) != len(ops) || items[0].Version != ops[0].Version:
			return errors.New("another manager does at the same time")
		}
		rest := ops[:1:1]
		for i, op := range ops[1:] {
			if items[i+1].Version == 0 {
				rest = append(rest, op)
			}
		}
		if len(rest) == len(ops) {
			return errors.New("the engine refuses to create what is not there")
		}
		ops = rest
	}
	return nil
}

// SetKey takes another cluster key, whose half for names has to be the same.
func (s *Store) SetKey(key *Key) error {
	sealer, err := newSealer(key, s.cfg.Name)
	if err == nil && sealer.prefix != s.prefix() {
		err = errors.New("it is the key of another cluster")
	}
	if err != nil {
		return fmt.Errorf("taking another cluster key: %w", err)
	}
	s.sealer.Store(sealer)
	s.interrupt() // what did not open may now
	return nil
}

// Reseal writes what another key than the first sealed again, and returns how many records
// that were. Those with a lease are left to their manager, and what others change meanwhile
// to them.
func (s *Store) Reseal(ctx context.Context) (n int, err error) {
	first := s.sealer.Load().keys[0].id
	s.mu.RLock()
	var old []state.Entry
	for _, r := range s.mirror.names {
		if r.header.keyID() == first || r.lease != 0 {
			continue
		}
		if e, err := s.mirror.entry(r); err == nil {
			old = append(old, e)
		}
	}
	id, version, by := s.id, s.layout, s.layoutBy
	s.mu.RUnlock()
	if version != 0 && by != first {
		if _, _, _, err := s.cfg.Engine.Txn(ctx, []Op{s.layoutOp(id, version)}); err != nil {
			return 0, fmt.Errorf("sealing the layout record again: %w", err)
		}
		s.interrupt()
	}
	var group errgroup.Group
	group.SetLimit(MaxOps) // as many share a transaction
	var count atomic.Int64
	for _, e := range old {
		group.Go(func() error {
			_, err := s.Swap(ctx, state.Change(e))
			if err == nil {
				count.Add(1)
			} else if errors.Is(err, state.ErrConflict) {
				err = nil
			}
			return err
		})
	}
	err = group.Wait()
	return int(count.Load()), err
}
