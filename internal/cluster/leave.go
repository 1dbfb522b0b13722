package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/internal/state"
)

// Drain has this manager give all its services to others, and take none while another can;
// with on false it takes part again. It forgets that when the process ends.
func (c *Cluster) Drain(on bool) {
	c.mu.Lock()
	changed := c.draining != on
	c.draining = on
	c.mu.Unlock()
	if changed && on {
		c.tell(slog.LevelInfo, "draining: the other managers take the services of this one")
	} else if changed {
		c.tell(slog.LevelInfo, "not draining any more")
	}
	wake(c.beat)
	wake(c.woken)
}

// Leave gives the services of this manager to the others, for as long as ctx lasts, and
// ends its lease, so that they take what is left at once. Call it after Run has ended.
func (c *Cluster) Leave(ctx context.Context) error {
	c.turns.Lock()
	defer c.turns.Unlock()
	c.mu.Lock()
	c.draining = true
	var own []*service
	for _, s := range c.services {
		if s.running != 0 {
			own = append(own, s)
		}
	}
	id := c.lease.id
	c.mu.Unlock()
	slices.SortFunc(own, byAddress)
	for batch := range slices.Chunk(own, MaxOps) {
		if ctx.Err() == nil {
			c.give(ctx, batch)
		}
	}
	if id == 0 {
		return nil
	}
	revoke, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := c.cfg.Leases.Revoke(revoke, id); err != nil {
		return fmt.Errorf("leaving the cluster: %w", err)
	}
	c.setLease(func(l *lease) { l.id, l.version = 0, 0 })
	return nil
}

// ErrAlive says that a manager shows signs of life.
var ErrAlive = errors.New("it shows signs of life: stop it, or drain it there")

// ErrNoMember says that the cluster has no manager of a name.
var ErrNoMember = errors.New("the cluster has no manager of this name")

// forgetAfter is how long a manager that Forget may remove has been silent.
const forgetAfter = beatEvery + 30*time.Second

// Forget removes the key of a manager that is gone, so that the others take its services
// at once. Its lease would end by itself, unless somebody renews it.
func (c *Cluster) Forget(ctx context.Context, manager string) error {
	c.mu.Lock()
	m := c.members[manager]
	c.mu.Unlock()
	err := ErrNoMember
	if m != nil {
		err = ErrAlive
		if manager != c.cfg.Manager && time.Since(m.beaten) >= forgetAfter {
			_, err = c.cfg.Store.Swap(ctx, state.Change{Key: memberKey(manager), Version: m.version})
		}
	}
	if err != nil {
		return fmt.Errorf("forgetting manager %q: %w", manager, err)
	}
	return nil
}
