package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
)

// A manager of several reserves revision counters before it uses them: the ceilings in the
// record are those of the time until Env.Reserve from now. Up to them it publishes without
// asking the store again, so that an outage of the store for hours is not noticed, and it
// never publishes above them: whoever takes the service over begins there. The record is
// replaced only if it is still the manager's own, so a manager that was taken over fails at
// its next reservation, whatever the clocks say.

// reserveShare says how far above the counters that were used the ceilings are at least, where
// the clock is behind them: by this part of what is left in the period. That is enough for
// hundreds of editions, and a process that is killed again and again, each time above what
// the last one reserved, does not come to the end.
const reserveShare = 1024

// room returns how much is reserved above a counter at least.
func room(used uint64) uint64 { return (maxStored - min(used, maxStored)) / reserveShare }

// retryHeld is the maximum of the delay after a failed write while an edition waits for it.
const retryHeld = 30 * time.Second

// pausedFor is how long a turn of the loop takes if the process was stopped meanwhile.
const pausedFor = 30 * time.Second

// reservation returns the ceilings to store: the counters that a single manager has used, or
// those that one of several reserves. While the service runs, they never fall.
func (s *Service) reservation(now time.Time) counters {
	list := maps.Clone(s.counters)
	if s.env.Reserve == 0 {
		return list
	}
	for p, c := range s.record.ceilings {
		list[p] = max(list[p], c)
	}
	for n := range s.plan.Targets {
		t := &s.plan.Targets[n]
		if t.Credential == nil {
			continue // what was reserved stays
		}
		p := t.Ring.Period
		if until, err := counterAt(t.Credential, t.Ring, now.Add(s.env.Reserve)); err == nil {
			list[p] = max(list[p], min(max(until, s.counters[p]+room(s.counters[p])), maxStored))
		}
	}
	return list
}

// reserveAgain has the record written if the reservation has to be renewed, or does not
// cover a period that has a credential. It marks the editions that may be uploaded.
func (s *Service) reserveAgain(now time.Time) {
	r := &s.record
	if at := s.renewal(); !at.IsZero() && !now.Before(at) {
		r.dirty = true
	}
	for n := range s.plan.Targets {
		if t := &s.plan.Targets[n]; t.Credential != nil && r.ceilings[t.Ring.Period] == 0 {
			r.dirty = true
		}
	}
	for p, e := range s.state.Editions {
		e.reserved = e.uploaded || e.Revision <= r.ceilings[p]
	}
}

// renewal returns when the reservation is to be renewed: when half of it is left, or, for
// thousands of services that began together not to do so together, somewhat before. It is
// the zero time while nothing is reserved, or the record is about to be written anyway.
func (s *Service) renewal() time.Time {
	r := &s.record
	if s.env.Reserve == 0 || r.until.IsZero() || r.dirty || !r.began.IsZero() {
		return time.Time{}
	}
	return r.until.Add(-s.env.Reserve/2 - s.env.Reserve/8*time.Duration(s.address[0])/256)
}

// unstored notes that the store did not take the record. A single manager publishes even
// so; one of several does what it has reserved, and then waits.
func (s *Service) unstored(now time.Time, err error, covered []*Edition) {
	r := &s.record
	if s.env.Reserve == 0 {
		s.troubles.set(troubleFloors, fmt.Errorf("storing the revision counter: %w", err))
		reserve(covered)
		return
	}
	held := s.held()
	if c := s.env.Counts; c != nil && held != nil && !held.counted {
		held.counted = true
		c.Held.Add(uint64(len(held.slots)))
	}
	switch {
	case held != nil && (r.until.IsZero() || now.Before(r.until) || r.ceilings[held.Keys.Period] == 0):
		err = fmt.Errorf("the revision counter of the %s descriptor is not reserved and the store does not answer, so that it is not published: %w", held.Role, err)
	case held != nil:
		err = fmt.Errorf("the reservation of revision counters ended at %s and the store does not answer, so that nothing is published: %w", clock(r.until), err)
	case !r.until.IsZero() && !now.Before(r.until.Add(-s.env.Reserve/2)):
		err = fmt.Errorf("revision counters are reserved until %s and the store does not answer: %w", clock(r.until), err)
	default: // it is the cluster's to tell
		err = nil
	}
	s.troubles.set(troubleFloors, err)
}

// held returns an edition that waits for its counter to be reserved; nil if none does.
func (s *Service) held() *Edition {
	for _, e := range s.state.inOrder() {
		if !e.reserved {
			return e
		}
	}
	return nil
}

// Reserved tells until when revision counters are reserved, and whether the service holds:
// an edition waits for a store that does not take the record. The zero time stands for a
// single manager's service, and for one that has reserved none yet.
func (s *Service) Reserved() (until time.Time, holds bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.record
	refused := r.err != nil || !r.began.IsZero() && s.env.Now().Sub(r.began) >= storeTimeout
	return r.until, s.env.Reserve > 0 && refused && s.held() != nil
}

// try notes the ceilings of a write, which may be made though it fails.
func (r *record) try(ceilings counters) {
	if r.tried == nil {
		r.tried = counters{}
	}
	for p, c := range ceilings {
		r.tried[p] = max(r.tried[p], c)
	}
}

// own reports whether a record is one that an earlier write of ours made though it failed:
// in an owner's term nobody else writes the record.
func (r *record) own(list []state.Ceiling) bool {
	return r.tried != nil && !slices.ContainsFunc(list, func(c state.Ceiling) bool { return c.Counter > r.tried[period(c)] })
}

// awake reports whether uploads may be launched. When they may not, and counters are
// reserved, the record has to be looked at first.
func (s *Service) awake() bool {
	if s.env.Awake != nil && !s.env.Awake() {
		s.doubt()
		return false
	}
	return !s.record.unread.Load()
}

// doubt has nothing made or launched before the record was written again, if it is one that
// another manager may have taken over.
func (s *Service) doubt() {
	if s.env.Reserve > 0 && !s.record.unread.Swap(true) {
		s.wakePlan()
	}
}

// lookAgain writes the record, which fails if another manager took it over. A store that does
// not answer within some seconds is like one that did not before: what is reserved may be
// used. Only a record that was never read is waited for.
func (s *Service) lookAgain(ctx context.Context, now time.Time) {
	r := &s.record
	switch {
	case !r.known:
		s.readFirst(ctx, now)
		return
	case r.doubted.IsZero():
		r.doubted, r.retryAt = now.Round(0), time.Time{}
		r.failures.Reset()
	case now.Round(0).Sub(r.doubted) >= storeTimeout:
		s.certain()
		return
	}
	r.dirty = r.dirty || r.began.IsZero()
	s.save(now)
}

// certain ends a doubt.
func (s *Service) certain() {
	s.record.doubted = time.Time{}
	s.record.unread.Store(false)
	s.replan = true
}

// readFirst reads a record that could not be read at the start.
func (s *Service) readFirst(ctx context.Context, now time.Time) {
	r := &s.record
	if r.reading || now.Before(r.retryAt) {
		return
	}
	r.reading = true
	s.calls.Go(func() {
		read := s.read(ctx)
		s.post(func(now time.Time) {
			if r.reading, r.retryAt = false, (time.Time{}); read.err == nil {
				s.restore(read)
				return
			}
			r.failures.Policy = backoff.Policy{Min: retryStore, Max: retryHeld}
			r.retryAt = now.Add(r.failures.Next())
			s.troubles.set(troubleFloors, fmt.Errorf("the revision counters that were used are not known, so that nothing is published: %w", read.err))
		})
	})
}

// fence ends a service that another manager publishes now: from this moment on nothing is
// launched. Whoever started it stops it.
func (s *Service) fence(err error) {
	if s.fenced.Swap(true) {
		return
	}
	s.post(func(time.Time) {
		s.countStale()
		if s.uploads != nil {
			s.uploads.Cancel(s.address)
		}
		s.troubles.set(troubleFloors, fmt.Errorf("nothing is published: %w", err))
		s.tell(event.Warning, slog.LevelWarn, "another manager publishes the service now: nothing is uploaded any more")
	})
	if s.env.Fenced != nil {
		s.calls.Go(func() { s.env.Fenced(s.address) })
	}
}

// countStale counts the uploads that wait when another manager publishes the service.
func (s *Service) countStale() {
	c := s.env.Counts
	if c == nil {
		return
	}
	for _, e := range s.state.Editions {
		for n := range e.slots {
			if e.uploaded && e.slots[n].confirmed.IsZero() && !e.slots[n].rejected {
				c.Stale.Add(1)
			}
		}
	}
}

// release stores the counters that were used in the place of those that were reserved, so
// that whoever is next does not begin above these. It waits for the store until a timer fires.
func (s *Service) release(timer <-chan time.Time) {
	s.mu.Lock()
	r := &s.record
	if s.fenced.Load() || !r.known || len(r.ceilings) == 0 {
		s.mu.Unlock()
		return
	}
	version, written := r.version, s.written(s.counters)
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.env.Store.SwapService(ctx, s.address, version, written)
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-timer:
		err = fmt.Errorf("no answer within %s", endTimeout)
	}
	switch {
	case errors.Is(err, state.ErrFenced): // that is why the service ends
		s.mu.Lock()
		defer s.mu.Unlock()
		s.countStale()
	case err != nil:
		s.tell(event.Warning, slog.LevelInfo, "the reservation of revision counters is not released: those of the next start are above it", slog.Any("error", err))
	}
}

// countersIn returns the counters in a record.
func countersIn(list []state.Ceiling) counters {
	c := make(counters, len(list))
	for _, of := range list {
		c[period(of)] = of.Counter
	}
	return c
}

// stored is the inverse of countersIn.
func (c counters) stored() (list []state.Ceiling) {
	for p, counter := range c {
		list = append(list, state.Ceiling{Period: p.Number, Minutes: p.Minutes(), Counter: counter})
	}
	return list
}
