package balance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// Publication is one descriptor on its way to its HSDirs.
type Publication struct {
	Service  descriptor.Address
	Period   descriptor.Period
	Revision uint64
	Places   []Place // in the order of their importance
	// Fresh says that the publication takes the place of every earlier one for
	// the same service and period; otherwise it adds to them.
	Fresh bool
	// Encode makes the bytes for one upload; every upload has its own. It may be
	// called concurrently.
	Encode func() ([]byte, error)
	// Report is told what became of each attempt. It never blocks for long.
	Report func(Outcome)
}

// Outcome is what became of one attempt to fill a slot.
type Outcome struct {
	Period   descriptor.Period
	Revision uint64
	Place    Place
	Err      error // nil when the HSDir confirmed
	Rejected bool  // the HSDir refused the descriptor; it is not sent there again unless published anew
}

// Publisher posts publications. It returns at once, bounds what it has under
// way over all services, and tries again what nobody confirmed.
type Publisher interface {
	Publish(Publication)
	// Withdraw ends all attempts for a service. What was posted stays.
	Withdraw(service descriptor.Address)
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
// could not be made: a token is gone, a key cannot be read.
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
			errs = append(errs, fmt.Errorf("making the %s descriptor: %w", st.ring.Which, err))
			continue
		}
		s.editions[st.keys.Period] = e
		made = append(made, e)
	}
	if len(errs) > 0 {
		s.retryAt = now.Add(jitter(min(retryPublish<<min(s.retries, 10), retryPublishMax)))
		s.retries++
	} else {
		s.retryAt, s.retries = time.Time{}, 0
	}
	err := errors.Join(errs...)
	s.troubles.set(troublePublish, err)
	return made, err
}

// make does one step: certifies if need be, takes the next revision counter,
// and hands the descriptor to the publisher.
func (s *Service) make(ctx context.Context, now time.Time, st step) (*edition, error) {
	authority, err := s.authority(ctx, now, st.keys)
	if err != nil {
		return nil, err
	}
	last := s.editions[st.keys.Period]
	e := &edition{wanted: st.wanted, reason: st.reason, expires: authority.expires, slots: map[Place]*slot{}}
	if st.fresh {
		e.built, e.refresh = now, now.Add(refreshMin+mathrand.N(refreshMax-refreshMin))
	} else {
		e.reason, e.revision, e.built, e.refresh = last.reason, last.revision, last.built, last.refresh
		e.contents = last.contents
	}
	// Also what only fills a gap gets a counter of its own: the HSDir may have
	// stored an earlier upload that nobody confirmed.
	counter, err := s.revisions.next(authority.revision, st.keys.Period, st.ring.RunStart, now.Add(s.lead(last)))
	s.troubles.set(troubleFloors, err)
	if counter == 0 {
		return nil, err
	}
	if st.fresh {
		e.revision = counter
	}
	encode := func() ([]byte, error) { return authority.encoder.Encode(e.contents, counter, nil, rand.Reader) }
	// Once here, so that a descriptor that cannot be made is an error of this
	// round and not of eight uploads.
	if _, err := encode(); err != nil {
		return nil, err
	}
	s.fill(e, last, st.missed, counter)
	s.log.Info("publishing", "descriptor", st.ring.Which, "period", st.keys.Period.Number, "reason", st.reason,
		"points", len(e.contents.IntroductionPoints), "slots", len(st.missed))
	s.env.Publisher.Publish(Publication{
		Service: s.address, Period: st.keys.Period, Revision: counter, Places: st.missed, Fresh: st.fresh,
		Encode: encode, Report: func(o Outcome) {
			select {
			case s.outcomes <- o:
			case <-ctx.Done():
			}
		},
	})
	return e, nil
}

// fill prepares the slots of e: those in missed begin anew, the others stay as
// they were in the last edition.
func (s *Service) fill(e, last *edition, missed []Place, counter uint64) {
	for _, p := range e.places {
		sl := &slot{revision: counter}
		if last != nil && last.slots[p] != nil {
			if !slices.Contains(missed, p) {
				sl = last.slots[p]
			} else {
				sl.rejections = last.slots[p].rejections
			}
		}
		e.slots[p] = sl
	}
}

// lead is how far ahead of the clock revision counters are taken while all
// HSDirs refuse ours: whoever published before us had a clock ahead of ours.
func (s *Service) lead(last *edition) time.Duration {
	if last == nil || !last.allRejected() {
		return 0
	}
	most := 0
	for _, sl := range last.slots {
		most = max(most, sl.rejections)
	}
	return time.Minute << min(most, 12)
}

// confirm takes the outcome of one attempt in.
func (s *Service) confirm(now time.Time, o Outcome) {
	e := s.editions[o.Period]
	if e == nil || e.slots[o.Place] == nil || e.slots[o.Place].revision != o.Revision {
		return // of a descriptor that has been replaced since
	}
	sl := e.slots[o.Place]
	sl.attempts++
	sl.err = o.Err
	switch {
	case o.Err == nil:
		sl.confirmed, sl.rejections = now, 0
		if s.published.IsZero() {
			s.published = now
			s.log.Info("published: the first HSDir confirmed", "after", now.Sub(s.started).Round(time.Millisecond))
		}
	case o.Rejected:
		sl.rejections++
		sl.retryAt = now.Add(jitter(min(rejectionWait<<min(2*(sl.rejections-1), 20), rejectionWaitMax)))
	}
	if o.Err != nil {
		s.log.Debug("upload", "hsdir", o.Place.String(), "error", o.Err)
	}
}
