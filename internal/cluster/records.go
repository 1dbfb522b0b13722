package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Service returns the record of a public address as the cluster has it, and its version. If
// it has none, the one that this manager has from before it was in a cluster comes with the
// version 0. Of a service that this manager publishes it returns no other owner's or term's
// record, from which nothing may be written: state.ErrFenced says that there is one.
func (c *Cluster) Service(a descriptor.Address) (record state.Service, version uint64, err error) {
	record, version, err = c.stored(a)
	if err != nil {
		return record, version, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.services[a]; s != nil && s.running != 0 {
		if err = c.stands(s.running, record.Owner, record.Term, version); err != nil {
			wake(c.woken)
			return state.Service{}, 0, fmt.Errorf("reading the record of a service: %w", err)
		}
	}
	return record, version, nil
}

// stands returns an error unless a record is that of this manager in a term.
func (c *Cluster) stands(running uint64, owner string, term, version uint64) error {
	switch {
	case version == 0 || term < running:
		return errBack
	case owner != c.cfg.Manager || term != running:
		return state.ErrFenced
	}
	return nil
}

// stored is Service for every record.
func (c *Cluster) stored(a descriptor.Address) (record state.Service, version uint64, err error) {
	key := state.ServiceKey(a)
	value, version, err := c.cfg.Store.Get(key)
	if err == nil && version == 0 {
		value, _, err = c.cfg.Local.Get(key)
	}
	if err == nil && value != nil {
		err = json.Unmarshal(value, &record)
	}
	if err != nil {
		err = fmt.Errorf("reading the record of a service: %w", err)
	}
	return record, version, err
}

// SwapService replaces the record of a public address that this manager publishes, as
// (*state.DB).SwapService does, under its own term. state.ErrFenced says that another
// manager owns it now, and nothing may be published any more.
func (c *Cluster) SwapService(ctx context.Context, a descriptor.Address, version uint64, record state.Service) (uint64, error) {
	key := state.ServiceKey(a)
	c.mu.Lock()
	s := c.services[a]
	known := s != nil && s.version == version
	c.mu.Unlock()
	if !known {
		c.note([]state.Key{key}) // the version may be that of another owner's record
	}
	c.mu.Lock()
	err := state.ErrFenced
	if s != nil && s.running != 0 {
		record.Owner, record.Term = c.cfg.Manager, s.running
		err = c.stands(s.running, s.owner, s.term, s.version)
	}
	c.mu.Unlock()
	if err == nil {
		if version, err = c.swap(ctx, s, version, record); !errors.Is(err, state.ErrConflict) {
			return version, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if why := c.stands(record.Term, s.owner, s.term, s.version); why != nil {
			err = why
		}
	}
	wake(c.woken)
	return 0, fmt.Errorf("storing the record of a service: %w", err)
}

// swap replaces a record in the cluster, and keeps a copy.
func (c *Cluster) swap(ctx context.Context, s *service, version uint64, record state.Service) (uint64, error) {
	key := state.ServiceKey(s.Address)
	change, err := state.Put(key, version, record)
	if err != nil {
		return 0, err
	}
	versions, err := c.cfg.Store.Swap(ctx, change)
	if err != nil {
		c.note([]state.Key{key}) // another's, or our own whose answer was lost
		return 0, err
	}
	c.note([]state.Key{key}) // which may be another's by now
	c.copy(ctx, change)
	return versions[0], nil
}

// copy keeps what the cluster has of a service in the local store too, for Restore.
func (c *Cluster) copy(ctx context.Context, change state.Change) {
	attempt, cancel := context.WithTimeout(ctx, ownTimeout) // a disk that hangs does not keep the cluster's record from counting
	defer cancel()
	_, version, err := c.cfg.Local.Get(change.Key)
	if err == nil {
		change.Version = version
		_, err = c.cfg.Local.Swap(attempt, change)
	}
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return // this manager is being stopped
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("keeping a copy of what the cluster has: %w", err)
	}
	c.troubleLocked(troubleCopy, err)
}
