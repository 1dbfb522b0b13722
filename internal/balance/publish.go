package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/failpoint"
)

// carryOut makes the editions that the plan asks for, and moves all editions on:
// the counter is reserved in the store, then the descriptors are signed, and then
// they are uploaded.
func (s *Service) carryOut(ctx context.Context, now time.Time, v backend.View) {
	defer s.advance(ctx, now)
	defer s.noteDrained(now, v)
	if s.plan.Waiting != "" {
		return
	}
	if s.cfg.Reclaim {
		s.catchUp(v, now)
	}
	if !s.cfg.Withdrawn {
		s.noteShares(v)
	}
	s.state.Published, s.state.Shares, s.state.hidden = s.plan.Chosen, s.plan.Shares, s.plan.hidden
	var errs []error
	for n := range s.plan.Targets {
		t := &s.plan.Targets[n]
		last := s.state.Editions[t.Keys.Period]
		switch {
		case t.Reason == "" && last != nil:
			last.share(t)
			last.wants = time.Time{}
		case t.Reason == "" && t.stored:
			s.adopt(t)
		case t.Gathers && last != nil && last.wants.IsZero():
			last.wants = now
		case t.Reason != "" && t.Held == "":
			if err := s.make(now, t, last); err != nil {
				errs = append(errs, fmt.Errorf("making the %s descriptor: %w", t.Role, err))
			}
		}
		if s.cfg.Hosted {
			t.places = nil // the edition has them, and there are thousands
		}
	}
	s.troubles.set(troublePublish, errors.Join(errs...))
}

// make makes the edition that a target needs. If no descriptor can be made of it,
// the last edition stays.
func (s *Service) make(now time.Time, t *Target, last *Edition) error {
	if err := t.check(now, last); err != nil {
		return err
	}
	counter, err := s.counters.next(t.Credential, t.Ring, now.Add(lead(last)))
	s.troubles.set(troubleFloors, err)
	if counter == 0 {
		return err
	}
	if last != nil {
		last.superseded.Store(true)
	}
	e := newEdition(now, t, last, counter)
	s.state.Editions[t.Keys.Period] = e
	s.record.dirty = true
	return nil
}

// check returns the error of making t's descriptors that is not the key's. What the
// last edition has was checked with that one.
func (t *Target) check(now time.Time, last *Edition) error {
	if last != nil && last.Credential == t.Credential && t.change == changeNone {
		return nil
	}
	checked := make(map[*holding]bool)
	for _, p := range t.places {
		if !checked[p.holding] {
			checked[p.holding] = true
			if err := t.Credential.Check(dated(p.holding.Contents, now), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// advance moves every edition on by the steps that it is ready for.
func (s *Service) advance(ctx context.Context, now time.Time) {
	s.save(now)
	uploads := s.env.Uploads(s.address)
	moved := s.uploads != nil && s.uploads != uploads
	if moved {
		s.uploads.Cancel(s.address)
	}
	s.uploads = uploads
	for _, e := range s.state.inOrder() {
		switch {
		case !e.reserved, !now.Before(e.expires()):
		case e.Credential.External && !e.signing.complete:
			s.sign(ctx, now, e)
		case now.Before(e.signing.retryAt):
		case !e.uploaded:
			s.tell(event.Publishing, slog.LevelInfo, "publishing", slog.Any("descriptor", e.Role), slog.Uint64("period", e.Keys.Period.Number),
				slog.Any("reason", e.Reason), slog.Int("points", e.points()), slog.Int("slots", len(e.slots)))
			s.upload(e)
		case moved:
			s.upload(e)
		}
	}
}

// upload hands the unconfirmed slots of an edition to the upload queue.
func (s *Service) upload(e *Edition) {
	failpoint.Reach(failpoint.Upload)
	e.uploaded = true
	bodies, built, expires := e.signing.bodies, e.Built, e.expires() // only the loop reads the fields of e that it changes
	// The standby has published what it knew meanwhile, if this machine was cut off.
	careful := s.cfg.Reclaim && !s.cfg.Withdrawn && e.Reason != ReasonClients
	held := make([]*descriptor.Contents, len(e.slots))
	for n := range e.slots {
		held[n] = e.slots[n].holding.Contents
	}
	u := hsdir.Upload{
		Address: s.address, Period: e.Keys.Period, Urgency: e.Urgency,
		Body: func(ctx context.Context, at hsdir.Slot) ([]byte, error) {
			if careful && !s.caughtUp(e) {
				return nil, hsdir.ErrLater
			}
			body, err := bodies[at.HSDir], error(nil)
			if bodies == nil {
				body, err = e.Credential.Encode(ctx, dated(held[e.index(at.HSDir)], built), e.Revision)
			}
			switch { // as late as can be
			case e.superseded.Load() || s.fenced.Load() || !s.env.Now().Before(expires):
				return nil, hsdir.ErrSuperseded
			case err == nil && !s.awake():
				return nil, hsdir.ErrLater
			}
			return body, err
		},
		Release: func(body []byte) {
			if bodies == nil { // else it may be uploaded again, to another tor
				descriptor.Reuse(body)
			}
		},
		Report: func(r hsdir.UploadResult) {
			s.postQuietly(func(now time.Time) { s.confirm(now, e, r) })
		},
	}
	for _, at := range e.slots {
		if at.confirmed.IsZero() && !at.rejected {
			u.Slots = append(u.Slots, at.Slot)
		}
	}
	s.uploads.Upload(u)
}

// confirm records the result of one upload attempt.
func (s *Service) confirm(now time.Time, e *Edition, r hsdir.UploadResult) {
	if e.superseded.Load() {
		return
	}
	at := e.slot(r.Slot.HSDir)
	at.attempts, at.err = at.attempts+1, r.Err
	switch {
	case r.Unencoded:
		s.replan = true
		s.signed(now, e, r.Err)
	case r.Err == nil:
		s.replan = s.replan || e.heard.IsZero() // it can be read back
		at.confirmed, e.heard = now, now
		if e.signing.failures.Failures > 0 {
			s.signed(now, e, nil)
		}
		if s.report.published.IsZero() {
			s.report.published = now
			s.tell(event.Published, slog.LevelInfo, "published: the first HSDir confirmed", slog.Duration("after", now.Sub(s.started).Round(time.Millisecond)))
		}
		if e.everywhere() { // reserve slots may have to wait for all other services
			e.Credential.Release()
			s.noteDrained(now, s.instances.View())
		}
		if e.complete() {
			e.signing.bodies = nil
			s.record.dirty, s.step = true, true
		}
	case r.Rejected:
		at.rejected = true
		s.replan = true
		if e.retryAt.IsZero() && !at.Left { // few clients ask that one, and soon none
			e.rejections++
			// Fourfold with each: two failures' worth.
			e.retryAt = now.Add(backoff.Policy{Min: rejectionWait, Max: rejectionWaitMax}.Delay(2*e.rejections - 1))
		}
	}
	if r.Err != nil {
		s.tell(event.UploadFailed, slog.LevelDebug, "upload", slog.String("hsdir", fmt.Sprintf("%X", r.Slot.HSDir[:4])), slog.Any("error", r.Err))
	}
}

// signing is the state of the signatures of an edition whose key is external:
// all of its descriptors are signed before the first is uploaded.
type signing struct {
	bodies   map[[20]byte][]byte // by HSDir; complete, or nil
	complete bool
	inFlight bool
	retryAt  time.Time
	failures backoff.Backoff
}

// The delay after a failure to sign, and its maximum. It is short: retrying costs the
// network nothing, and a token that is put back should be used soon.
const (
	retrySign    = 2 * time.Second
	retrySignMax = 30 * time.Second
)

// sign signs the descriptors of an edition in the background.
func (s *Service) sign(ctx context.Context, now time.Time, e *Edition) {
	if e.signing.inFlight || now.Before(e.signing.retryAt) {
		return
	}
	e.signing.inFlight = true
	slots, built := slices.Clone(e.slots), e.Built
	s.calls.Go(func() {
		bodies := make(map[[20]byte][]byte, len(slots))
		var err error
		for n := 0; n < len(slots) && err == nil && !e.superseded.Load(); n++ {
			bodies[slots[n].HSDir], err = e.Credential.Encode(ctx, dated(slots[n].holding.Contents, built), e.Revision)
		}
		s.post(func(now time.Time) {
			e.signing.inFlight = false
			if err == nil {
				e.signing.bodies, e.signing.complete = bodies, true
			}
			s.signed(now, e, err)
		})
	})
}

// signed records whether the key of an edition signed it.
func (s *Service) signed(now time.Time, e *Edition, err error) {
	if e.superseded.Load() {
		return
	}
	s.keys.Signed(e.Keys.Period, e.Credential, err)
	if err == nil {
		e.signing.failures.Reset()
	} else {
		e.signing.failures.Policy = backoff.Policy{Min: retrySign, Max: retrySignMax}
		e.uploaded, e.signing.retryAt = false, now.Add(e.signing.failures.Next())
	}
}

// signingDue returns when the next retry of signing is due; the zero time if none is.
func (s *Service) signingDue(now time.Time) (next time.Time) {
	for _, e := range s.state.Editions {
		if at := e.signing.retryAt; at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}
