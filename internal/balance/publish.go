package balance

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// Publisher fills slots. It returns at once, bounds what it has under way over
// all services, and tries again what nobody confirmed; what an HSDir refused it
// leaves to us. *hsdir.Publisher is one.
type Publisher interface {
	Publish(hsdir.Publication)
	// Retain drops what is still to be done for a service, save for the slots of
	// which keep says that they still matter.
	Retain(service descriptor.Address, keep func(descriptor.Period, hsdir.Slot) bool)
	// Withdraw drops all that is still to be done. What was posted stays.
	Withdraw(service descriptor.Address)
}

// outcome is what became of one attempt to fill a slot.
type outcome struct {
	period   descriptor.Period
	revision uint64
	hsdir.UploadResult
}

// tor makes a descriptor anew after a random time between these, and so do we.
const (
	refreshMin = 60 * time.Minute
	refreshMax = 120 * time.Minute
)

// The wait after a rejection, doubling, before a higher revision counter is tried.
const (
	rejectionWait    = time.Second
	rejectionWaitMax = 30 * time.Minute
)

// retryPublish is the wait, doubling to the second value, after a descriptor
// could not be made.
const (
	retryPublish    = 2 * time.Second
	retryPublishMax = 5 * time.Minute
)

// publish carries a plan out, as far as it can, and returns what it made.
func (s *Service) publish(ctx context.Context, now time.Time, plan []step) ([]*edition, error) {
	if len(plan) > 0 && now.Before(s.retryAt) {
		return nil, s.troubles[troublePublish]
	}
	var made []*edition
	var errs []error
	for _, st := range plan {
		e, err := s.make(ctx, now, st)
		if err != nil {
			errs = append(errs, fmt.Errorf("making the %s descriptor: %w", st.ring.Role, err))
			continue
		}
		s.editions[st.keys.Period] = e
		made = append(made, e)
	}
	err := errors.Join(errs...)
	if err != nil {
		s.retryAt = now.Add(jitter(min(retryPublish<<min(s.retries, 10), retryPublishMax)))
		s.retries++
	} else {
		s.retryAt, s.retries = time.Time{}, 0
	}
	s.troubles.set(troublePublish, err)
	return made, err
}

// make does one step: takes the next revision counter, and hands the descriptor
// to the publisher.
func (s *Service) make(ctx context.Context, now time.Time, st step) (*edition, error) {
	last := s.editions[st.keys.Period]
	e := &edition{wanted: st.wanted, reason: st.reason}
	if last != nil {
		e.heard = last.heard
		if last.authority == e.authority {
			e.unmade = last.unmade
		}
	}
	if st.fresh {
		e.built, e.refresh = now, now.Add(refreshMin+mathrand.N(refreshMax-refreshMin))
		e.contents = dated(st.contents, now)
	} else {
		e.reason, e.revision, e.built, e.refresh = last.reason, last.revision, last.built, last.refresh
		e.contents = last.contents
	}
	// Also what only fills a gap gets a counter of its own: the HSDir may have
	// stored an earlier upload that nobody confirmed.
	counter, err := s.revisions.next(e.authority.revision, st.keys.Period, st.ring.RunStart, now.Add(lead(last)))
	s.troubles.set(troubleFloors, err)
	if counter == 0 {
		return nil, err
	}
	if st.fresh {
		e.revision = counter
	}
	if err := e.authority.check(ctx, e.contents, counter); err != nil {
		return nil, err
	}
	e.fill(last, st.missed, counter)
	s.log.Info("publishing", "descriptor", st.ring.Role, "period", st.keys.Period.Number, "reason", st.reason,
		"points", len(e.contents.IntroductionPoints), "slots", len(st.missed))
	s.env.Publisher.Publish(hsdir.Publication{
		Address: s.address, Period: st.keys.Period, Slots: st.missed, Adds: !st.fresh, Slow: e.authority.slow,
		Encode: func(ctx context.Context) ([]byte, error) { return e.authority.encode(ctx, e.contents, counter) },
		Report: func(p hsdir.UploadResult) {
			select {
			case s.outcomes <- outcome{st.keys.Period, counter, p}:
			case <-ctx.Done():
			}
		},
	})
	return e, nil
}

// fill prepares what is known of e's slots: those in missed begin anew, the
// others stay as they were in the last edition.
func (e *edition) fill(last *edition, missed []hsdir.Slot, counter uint64) {
	e.filled = make(map[[20]byte]*filling, len(e.slots))
	for _, s := range e.slots {
		f := &filling{revision: counter}
		if last != nil && last.filled[s.HSDir] != nil {
			if slices.ContainsFunc(missed, func(m hsdir.Slot) bool { return m.HSDir == s.HSDir }) {
				f.rejections = last.filled[s.HSDir].rejections
			} else {
				f = last.filled[s.HSDir]
			}
		}
		e.filled[s.HSDir] = f
	}
}

// lead is how far ahead of the clock revision counters are taken while all
// HSDirs refuse ours: whoever published before us had a clock ahead of ours. It
// goes up fourfold with every refusal, and so reaches hours in a minute.
func lead(last *edition) time.Duration {
	if last == nil || !last.allRejected() {
		return 0
	}
	most := 0
	for _, f := range last.filled {
		most = max(most, f.rejections)
	}
	return time.Minute << min(2*most, 12)
}

// confirm takes the outcome of one attempt in.
func (s *Service) confirm(now time.Time, o outcome) {
	e := s.editions[o.period]
	if e == nil || e.filled[o.Slot.HSDir] == nil || e.filled[o.Slot.HSDir].revision != o.revision {
		return // of a descriptor that has been replaced since
	}
	e.signed(o)
	f := e.filled[o.Slot.HSDir]
	f.attempts++
	f.err = o.Err
	switch {
	case o.Err == nil:
		f.confirmed, f.rejections = now, 0
		e.heard = now
		if s.published.IsZero() {
			s.published = now
			s.log.Info("published: the first HSDir confirmed", "after", now.Sub(s.started).Round(time.Millisecond))
		}
	case o.Rejected:
		f.rejections++
		f.retryAt = now.Add(jitter(min(rejectionWait<<min(2*(f.rejections-1), 20), rejectionWaitMax)))
	}
	if o.Err != nil {
		s.log.Debug("upload", "hsdir", fmt.Sprintf("%X", o.Slot.HSDir[:4]), "error", o.Err)
	}
}

// retain tells the publisher which slots still matter: relays come and go,
// periods end, and so do certificates.
func (s *Service) retain(now time.Time) {
	s.env.Publisher.Retain(s.address, func(p descriptor.Period, slot hsdir.Slot) bool {
		e := s.editions[p]
		return e != nil && e.filled[slot.HSDir] != nil && now.Before(e.authority.expires)
	})
}
