package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/state"
)

const (
	lookAfter   = 5 * time.Minute  // whether the mirror has everything, whatever the watch shows
	lateAfter   = 10 * time.Second // in which the watch must show a change of our own
	retryAfter  = 250 * time.Millisecond
	retryMax    = 5 * time.Second
	stableAfter = 10 * time.Second // a watch that lived this long is no sign of a lasting fault
)

// follow keeps the mirror up to date until the store is closed: it reads everything, then
// watches from there, and begins again when the watch breaks. Now and then it looks whether
// the watch has shown everything.
func (s *Store) follow() {
	due := false // it is time to look whether the mirror has everything
	retry := backoff.Backoff{Policy: backoff.Policy{Min: retryAfter, Max: retryMax}}
	for s.ctx.Err() == nil {
		s.mu.Lock()
		waiting := s.waiting
		s.waiting, s.unsure = nil, false
		s.mu.Unlock()
		revision, whole := int64(0), false
		var err error
		if due {
			revision, whole, err = s.look()
		}
		if due = false; !whole {
			revision, err = s.reread()
		}
		for _, done := range waiting {
			done <- err
		}
		if err == nil {
			var lived time.Duration
			if lived, due, err = s.watch(revision); lived >= stableAfter {
				retry.Reset()
			}
		} else {
			s.failed(err)
		}
		if err != nil {
			ctx, cancel := s.interruptible(retry.Next())
			<-ctx.Done()
			cancel()
		}
	}
}

// interruptible returns a context that ends after some time, or when interrupt is called. It
// has ended if somebody wants everything to be read again.
func (s *Store) interruptible(after time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(s.ctx, after)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = cancel
	if s.unsure || len(s.waiting) > 0 {
		cancel()
	}
	return ctx, cancel
}

// interrupt has everything read again soon.
func (s *Store) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interruptLocked()
}

func (s *Store) interruptLocked() {
	s.unsure = true
	s.interrupted()
}

// again has everything read again, and waits for that.
func (s *Store) again(ctx context.Context) error {
	done := make(chan error, 1)
	s.mu.Lock()
	s.waiting = append(s.waiting, done)
	s.interrupted()
	s.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return state.ErrClosed
	}
}

// reread reads everything, and has the mirror be that, as of the revision returned.
func (s *Store) reread() (revision int64, err error) {
	for tries := 1; ; tries++ {
		sent := s.now()
		seen := s.seenNow()
		items, _, revision, err := s.cfg.Engine.Range(s.ctx, s.prefix(), 0)
		if err != nil {
			return 0, err
		}
		var own Item // the layout record
		if i := slices.IndexFunc(items, func(i Item) bool { return i.Key == s.layoutName() }); i >= 0 {
			own = items[i]
			items = slices.Delete(items, i, i+1)
		}
		id, err := s.judge(own, len(items))
		if err == nil && id == "" {
			if err = s.create(); err == nil && tries < 3 {
				continue
			}
			err = cmp.Or(err, fmt.Errorf("%w: it does not show what it has", ErrUnavailable))
		}
		if err != nil {
			return 0, err
		}
		s.take(own, id, items, revision, sent, revision < seen)
		return revision, nil
	}
}

// take has the mirror be what was read at a revision. back says that the engine went back
// before: then versions say nothing about what the mirror has.
func (s *Store) take(own Item, id string, items []Item, revision int64, sent time.Time, back bool) {
	s.mu.RLock()
	back = back || s.mirror.contradicted(items, revision)
	var fresh []Item // that have to be opened
	var places []int // their indexes in items
	for i, item := range items {
		if r := s.mirror.names[item.Key]; back || r == nil || r.err != nil || r.version != item.Version {
			fresh, places = append(fresh, item), append(places, i)
		}
	}
	s.mu.RUnlock()
	all := make([]opened, len(items))
	for i, o := range s.sealer.Load().open(fresh) {
		all[places[i]] = o
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if back {
		s.stats.Back++
		s.log.Error("the store of the cluster went back to an earlier state, or its watch left something out: records may be older than what was published", "revision", revision, "before", s.seen)
		next := newMirror(s.open)
		next.replace(items, all, revision)
		s.changedLocked(s.mirror.differences(next))
		s.mirror, s.seen, s.pending = next, revision, nil
	} else {
		s.changedLocked(s.mirror.replace(items, all, revision))
		s.seen = max(s.seen, revision)
	}
	if s.refusal != nil || s.trouble != nil && s.layout != 0 {
		s.log.Info("the store of the cluster is followed again")
	}
	if s.layout == 0 {
		close(s.ready)
	}
	s.id, s.layout, s.layoutBy = id, own.Version, headerOf(own.Value).keyID()
	s.refusal, s.trouble = nil, nil
	s.stats.Reads++
	s.wholeLocked(revision, sent)
}

// look reads what changed since the mirror had everything, and reports whether the mirror now
// has everything again. It has if it has as many records as the engine: those that did not
// change are there still.
func (s *Store) look() (revision int64, whole bool, err error) {
	sent := s.now()
	s.mu.RLock()
	seen, since := s.seen, s.whole
	s.mu.RUnlock()
	items, count, revision, err := s.cfg.Engine.Range(s.ctx, s.prefix(), since)
	if err != nil {
		return 0, false, err
	}
	if s.wentBack(revision, items, seen) || slices.ContainsFunc(items, func(i Item) bool { return i.Key == s.layoutName() }) {
		return 0, false, nil
	}
	s.apply(revision, items)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror.count(revision)+1 != count { // and the layout record
		return 0, false, nil
	}
	s.stats.Looks++
	s.wholeLocked(revision, sent)
	return revision, true, nil
}

// wholeLocked notes that the mirror has everything up to a revision.
func (s *Store) wholeLocked(revision int64, sent time.Time) {
	s.mirror.reached(revision)
	s.whole, s.proved = revision, sent
	s.provedLocked()
}

// watch takes in changes after a revision until the watch breaks, until somebody wants
// everything to be read again, or until it is time to look whether anything is missing. The
// last two are no errors.
func (s *Store) watch(revision int64) (lived time.Duration, due bool, err error) {
	ctx, cancel := s.interruptible(backoff.Jitter(lookAfter))
	defer cancel()
	begin := s.now()
	err = s.cfg.Engine.Watch(ctx, s.prefix(), revision+1, func(revision int64, items []Item) {
		if ctx.Err() == nil {
			s.observe(revision, items)
		}
	})
	lived = s.now().Sub(begin)
	if ctx.Err() != nil {
		return lived, errors.Is(ctx.Err(), context.DeadlineExceeded), nil
	}
	s.log.Debug("the watch of the cluster's store broke", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Breaks++
	return lived, false, err
}

// observe takes in what the watch shows of a revision.
func (s *Store) observe(revision int64, items []Item) {
	s.mu.RLock()
	version := s.layout
	s.mu.RUnlock()
	for _, item := range items {
		if item.Key == s.layoutName() && (item.Value == nil || item.Version != version) {
			// What happens here is no change of records: look before believing any of it.
			s.interrupt()
			return
		}
	}
	s.apply(revision, slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return i.Key == s.layoutName() }))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mirror.reached(revision)
	s.provedLocked()
}

// failed notes why the engine cannot be followed.
func (s *Store) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.trouble
	s.trouble = err
	if final(err) {
		s.refusal = err
	}
	if s.closed || before != nil && before != errReading && kindOf(before) == kindOf(err) {
		return // the details change from one try to the next
	}
	if final(err) {
		s.log.Error("the store of the cluster cannot be used", "error", err)
	} else {
		s.log.Warn("the store of the cluster cannot be read", "error", err)
	}
}

// kindOf returns the package's error that an error is, or nil.
func kindOf(err error) error {
	for _, k := range []error{ErrWiped, ErrKey, state.ErrNewer, ErrDenied, ErrUnavailable} {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// expectLocked notes a change of our own that the watch has to show.
func (s *Store) expectLocked(revision int64, sent time.Time) {
	s.pending = append(s.pending, proof{revision, sent, s.now()})
	s.provedLocked()
	if len(s.pending) > 0 && s.late == nil && !s.closed {
		s.late = time.AfterFunc(lateAfter, s.lookLate)
	}
}

// provedLocked takes out the changes that the watch has shown.
func (s *Store) provedLocked() {
	for len(s.pending) > 0 && s.pending[0].revision <= s.mirror.through {
		if s.pending[0].sent.After(s.proved) {
			s.proved = s.pending[0].sent
		}
		s.pending = s.pending[1:]
	}
}

// lookLate reads everything again if the watch does not show what it has to: it may be dead
// though its connection is not.
func (s *Store) lookLate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = nil
	if s.closed || len(s.pending) == 0 {
		return
	}
	if wait := lateAfter - s.now().Sub(s.pending[0].made); wait > 0 {
		s.late = time.AfterFunc(wait, s.lookLate)
		return
	}
	s.log.Debug("the watch of the cluster's store is late", "revision", s.pending[0].revision)
	s.stats.Late++
	s.pending = nil
	s.interruptLocked()
}
