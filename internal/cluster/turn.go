package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/state"
)

const (
	// turnEvery is how often the loop looks while services wait to be taken, and idleEvery
	// else: what happens wakes it.
	turnEvery = time.Second
	idleEvery = 10 * time.Second
	// ownTimeout bounds the change of the owners of a batch of services. What was not
	// changed is tried again in the next turn.
	ownTimeout = 5 * time.Second
	// takeAtOnce is how many services are taken before the first of them is published: what
	// these store would come between.
	takeAtOnce = 1000
	// For how long after a service could not be started others are to try.
	failedWait    = 2 * time.Minute
	failedWaitMax = time.Hour
)

// Run owns what this manager should own until ctx ends. It gives nothing back: see Leave.
func (c *Cluster) Run(ctx context.Context) {
	defer c.cfg.Store.Subscribe("", c.note)()
	c.noteAll()
	var wait sync.WaitGroup
	wait.Go(func() { c.keepLease(ctx) })
	wait.Go(func() { c.keepPulse(ctx) })
	defer wait.Wait()
	for ctx.Err() == nil {
		timer := time.NewTimer(c.turn(ctx))
		select {
		case <-ctx.Done():
		case <-c.woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// turn does what there is to do now, and returns when to look again if nothing happens.
func (c *Cluster) turn(ctx context.Context) time.Duration {
	c.turns.Lock()
	defer c.turns.Unlock()
	now := time.Now()
	c.mu.Lock()
	c.observeLocked(now)
	d := c.decideLocked(now)
	c.orphansLocked(d.orphans)
	c.mu.Unlock()
	c.lose(ctx, d.lost)
	for batch := range slices.Chunk(d.again, MaxOps) {
		c.setRunning(c.own(ctx, batch, c.cfg.Manager), true)
	}
	for batch := range slices.Chunk(d.give, MaxOps) {
		c.give(ctx, batch)
	}
	c.tellOf(d.take, "taking the services of a manager that shows no sign of life", "taking services that no manager owns", "going on with the services that this manager owned")
	for batch := range slices.Chunk(d.take, takeAtOnce) {
		c.take(ctx, batch)
	}
	if d.waiting || len(d.take)+len(d.again)+len(d.give) > 0 {
		return turnEvery
	}
	return idleEvery
}

// lose ends services that another manager owns now.
func (c *Cluster) lose(ctx context.Context, list []*service) {
	if len(list) == 0 {
		return
	}
	c.tellOf(list, "another manager owns services of this one now", "services of this manager were given up by another", "services of this manager have another term now")
	c.setRunning(list, false)
	c.mu.Lock()
	c.counts.Fenced += uint64(len(list))
	c.mu.Unlock()
	c.cfg.Runner.Stop(ctx, addresses(list))
}

// take becomes the owner of services, and publishes them.
func (c *Cluster) take(ctx context.Context, list []*service) {
	before := map[*service]string{}
	c.mu.Lock()
	for _, s := range list {
		before[s] = s.owner
	}
	c.mu.Unlock()
	taken := c.own(ctx, list, c.cfg.Manager)
	if len(taken) == 0 {
		return
	}
	c.setRunning(taken, true)
	failed := c.cfg.Runner.Start(ctx, addresses(taken))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Taken += uint64(len(taken))
	for _, s := range taken {
		switch before[s] {
		case "":
		case c.cfg.Manager:
			c.counts.Again++
		default:
			c.counts.Dead++
		}
		s.fails++
		switch err := failed[s.Address]; err {
		case nil:
			s.fails = 0
		default:
			s.running, s.failed = 0, time.Now().Add(backoff.Policy{Min: failedWait, Max: failedWaitMax}.Delay(s.fails))
			c.tell(slog.LevelError, "this manager cannot publish a service", slog.String("service", s.Address.Short()), slog.Any("error", err))
		}
	}
	if len(failed) > 0 {
		wake(c.woken)
		wake(c.beat)
	}
}

// give ends services that this manager owns, and has nobody own them, for another to take
// them.
func (c *Cluster) give(ctx context.Context, list []*service) {
	if running := c.running(list); len(running) > 0 {
		c.cfg.Runner.Stop(ctx, addresses(running)) // it writes their records a last time
		c.setRunning(running, false)
	}
	given := c.own(ctx, list, "")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Given += uint64(len(given))
	for _, s := range given {
		if s.Lacking == errNotWanted {
			delete(c.services, s.Address)
		}
	}
}

// own changes the owner of services, each for itself, if nobody else did meanwhile. It
// returns those of which that succeeded.
func (c *Cluster) own(ctx context.Context, list []*service, owner string) (done []*service) {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	errs := make([]error, len(list))
	var wait sync.WaitGroup
	for n, s := range list {
		wait.Go(func() { errs[n] = c.ownOne(ctx, s, owner) })
	}
	wait.Wait()
	var failed []error
	for n, s := range list {
		switch err := errs[n]; {
		case err == nil:
			done = append(done, s)
		case !errors.Is(err, state.ErrConflict): // else the next turn sees why
			failed = append(failed, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if len(failed) > 0 {
		c.counts.Failed += uint64(len(failed))
		err = fmt.Errorf("changing the owner of %d services: %w", len(failed), failed[0])
	}
	c.troubleLocked(troubleOwning, err)
	return done
}

func (c *Cluster) ownOne(ctx context.Context, s *service, owner string) error {
	record, version, err := c.Service(s.Address)
	if err != nil {
		return err
	}
	c.mu.Lock()
	same := version == s.version // that the turn decided by
	c.mu.Unlock()
	if !same {
		return state.ErrConflict
	}
	record.Owner, record.Term = owner, record.Term+1
	_, err = c.swap(ctx, s, version, record)
	return err
}

// running lists those services that this manager publishes.
func (c *Cluster) running(list []*service) (running []*service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		if s.running != 0 {
			running = append(running, s)
		}
	}
	return running
}

func (c *Cluster) setRunning(list []*service, running bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		s.running, s.free = 0, time.Time{}
		if running {
			s.running = s.term
		}
	}
}

func addresses(list []*service) []descriptor.Address {
	out := make([]descriptor.Address, len(list))
	for n, s := range list {
		out[n] = s.Address
	}
	return out
}
