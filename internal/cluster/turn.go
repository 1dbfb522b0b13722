package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	// At most ownAtOnce services are tried within ownTimeout.
	ownAtOnce = 1000
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
		c.own(ctx, batch, c.cfg.Manager)
	}
	for batch := range slices.Chunk(d.give, MaxOps) {
		c.give(ctx, batch)
	}
	d.take = c.ownerless(ctx, d.take)
	c.tellOf(c.untold(d.take), "taking the services of a manager that shows no sign of life", "taking services that no manager owns", "going on with the services that this manager owned")
	c.take(ctx, d.take)
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
	c.ended(list)
	c.mu.Lock()
	c.counts.Fenced += uint64(len(list))
	c.mu.Unlock()
	c.cfg.Runner.Stop(ctx, addresses(list))
}

// ownerless returns those of services to take whose owner is dead in the engine, too: what is
// known of a record may be newer than what is known of the key of the manager who wrote it.
func (c *Cluster) ownerless(ctx context.Context, list []*service) []*service {
	strangers := map[state.Key]bool{}
	c.mu.Lock()
	for _, s := range list {
		if s.owner != "" && s.owner != c.cfg.Manager && c.members[s.owner] == nil {
			strangers[memberKey(s.owner)] = true
		}
	}
	c.mu.Unlock()
	if len(strangers) == 0 {
		return list
	}
	keys := slices.Sorted(maps.Keys(strangers))
	attempt, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	err := c.cfg.Store.Fresh(attempt, keys...)
	if err == nil {
		c.note(keys)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(list, func(s *service) bool {
		return strangers[memberKey(s.owner)] && (err != nil || c.members[s.owner] != nil)
	})
}

// take becomes the owner of services, and publishes them.
func (c *Cluster) take(ctx context.Context, list []*service) {
	if len(list) == 0 {
		return
	}
	c.cfg.Taking(len(list))
	before := map[*service]string{}
	c.mu.Lock()
	for _, s := range list {
		before[s] = s.owner
	}
	c.mu.Unlock()
	var taken []*service // all, before the first starts: what that stores would come between
	began := time.Now()
	for batch := range slices.Chunk(list, ownAtOnce) {
		if time.Since(began) >= ownTimeout {
			break // the store is slow: the next turn takes the others
		}
		taken = append(taken, c.own(ctx, batch, c.cfg.Manager)...)
	}
	if len(taken) == 0 {
		return
	}
	failed := c.cfg.Runner.Start(ctx, addresses(taken))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Taken += uint64(len(taken))
	for _, s := range taken {
		switch before[s] {
		case "":
			if now := time.Now(); now.Sub(s.given) < giveEvery {
				s.stays = now.Add(staysFor)
			}
		case c.cfg.Manager:
			c.counts.Again++
		default:
			c.counts.Dead++
		}
		switch err := failed[s.Address]; {
		case err == nil:
			s.fails = 0
		case errors.Is(err, state.ErrFenced): // another manager took it meanwhile
			s.running = 0
		default:
			s.fails++
			s.running, s.failed = 0, time.Now().Add(backoff.Policy{Min: failedWait, Max: failedWaitMax}.Delay(s.fails))
			if ctx.Err() == nil && !errors.Is(err, context.Canceled) { // else this manager is being stopped
				c.tell(slog.LevelError, "this manager cannot publish a service", slog.String("service", s.Address.Short()), slog.Any("error", err))
			}
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
		c.ended(running)
	}
	given := c.own(ctx, list, "")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Given += uint64(len(given))
}

// own changes the owner of services, each for itself, if nobody else did meanwhile. It
// returns those of which that succeeded. Those that this manager becomes the owner of count
// as running, in the term that this begins.
func (c *Cluster) own(ctx context.Context, list []*service, owner string) (done []*service) {
	attempt, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	errs := make([]error, len(list))
	var wait sync.WaitGroup
	for n, s := range list {
		wait.Go(func() { errs[n] = c.ownOne(attempt, s, owner) })
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
	if len(failed) > 0 && ctx.Err() != nil {
		return done // this manager is being stopped: the others take them
	}
	var err error
	if len(failed) > 0 {
		c.counts.Failed += uint64(len(failed))
		err = fmt.Errorf("changing the owner of %d services: %w", len(failed), failed[0])
	}
	c.troubleLocked(troubleOwning, err)
	return done
}

func (c *Cluster) ownOne(ctx context.Context, s *service, owner string) error {
	record, version, err := c.stored(s.Address)
	if err != nil {
		return err
	}
	c.mu.Lock()
	// Else another manager may have taken it since the turn decided.
	same, term := version == s.version && s.decided == (tenure{s.owner, s.term}), s.running
	c.mu.Unlock()
	if !same {
		c.note([]state.Key{state.ServiceKey(s.Address)})
		return state.ErrConflict
	}
	copied := c.copied(s.Address)
	switch {
	case term == 0:
		term = max(record.Term, copied.Term) + 1
	case copied.Term == term: // it goes on in its term, and what it wrote last is written again
		record, copied = copied, record
	}
	record.Owner, record.Term, record.Ceilings = owner, term, state.Highest(record.Ceilings, copied.Ceilings)
	if _, err = c.swap(ctx, s, version, record); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.decided = tenure{owner, term}
	if owner == c.cfg.Manager {
		s.running, s.free = term, time.Time{}
	}
	return nil
}

// copied returns what this manager wrote last of a service that it owned, which is newer than
// the record if the store was put back. It is empty if there is none.
func (c *Cluster) copied(a descriptor.Address) (record state.Service) {
	value, _, err := c.cfg.Local.Get(state.ServiceKey(a))
	if err != nil || json.Unmarshal(value, &record) != nil || record.Owner != c.cfg.Manager {
		return state.Service{}
	}
	return record
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

// ended notes that services are not published by this manager any more.
func (c *Cluster) ended(list []*service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		s.running, s.free = 0, time.Time{}
	}
}

// untold lists those of the services to take of whose owner there was none in the last turn:
// a store that takes no changes has every turn try again.
func (c *Cluster) untold(list []*service) (untold []*service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taking := map[string]bool{}
	for _, s := range list {
		if taking[s.owner] = true; !c.taking[s.owner] {
			untold = append(untold, s)
		}
	}
	c.taking = taking
	return untold
}

func addresses(list []*service) []descriptor.Address {
	out := make([]descriptor.Address, len(list))
	for n, s := range list {
		out[n] = s.Address
	}
	return out
}
