package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Service returns the record of a public address as the cluster has it, and its version. If
// it has none, the one that this manager has from before it was in a cluster comes with the
// version 0.
func (c *Cluster) Service(a descriptor.Address) (record state.Service, version uint64, err error) {
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
	c.mu.Lock()
	s := c.services[a]
	if s == nil || s.running == 0 {
		c.mu.Unlock()
		return 0, fmt.Errorf("storing the record of a service: %w", state.ErrFenced)
	}
	record.Owner, record.Term = c.cfg.Manager, s.running
	c.mu.Unlock()
	version, err := c.swap(ctx, s, version, record)
	if !errors.Is(err, state.ErrConflict) {
		return version, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.owner != c.cfg.Manager && s.term >= record.Term || s.term > record.Term:
		wake(c.woken)
		return 0, fmt.Errorf("storing the record of a service: %w", state.ErrFenced)
	case s.term < record.Term:
		c.tell(slog.LevelError, "the store of the cluster was set back: it has an older record of a service than it gave", slog.String("service", a.Short()))
	}
	return 0, err
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
	c.mu.Lock()
	s.owner, s.term, s.version, s.damage = record.Owner, record.Term, versions[0], nil
	c.mu.Unlock()
	c.copy(ctx, change)
	return versions[0], nil
}

// copy keeps what the cluster has of a service in the local store too, for Restore.
func (c *Cluster) copy(ctx context.Context, change state.Change) {
	_, version, err := c.cfg.Local.Get(change.Key)
	if err == nil {
		change.Version = version
		_, err = c.cfg.Local.Swap(ctx, change)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("keeping a copy of what the cluster has: %w", err)
	}
	c.troubleLocked(troubleCopy, err)
}
