package balance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
)

// An HSDir's confirmation of an upload proves nothing. So now and then the
// published descriptor is fetched as a client would and compared. This also
// finds other publishers under the address: another balancer with the same
// key, or a thief.

const (
	readbackFirst   = time.Minute // after the first confirmation, and, doubling, after a failure
	readbackEvery   = time.Hour
	readbackTesting = 30 * time.Second // on a testing network
)

// readback is the state of fetching the service's own descriptor as clients do.
type readback struct {
	asking   *Edition // for which a fetch is in flight, else nil
	due      time.Time
	at       time.Time // when the published descriptor was last returned
	failures int       // in a row
}

// next returns when the next fetch is due; the zero time if none is.
func (r *readback) next() time.Time {
	if r.asking != nil {
		return time.Time{}
	}
	return r.due
}

// readBack starts a fetch of the service's own descriptor if one is due.
func (s *Service) readBack(ctx context.Context, now time.Time, c *hsdir.Consensus) {
	r := &s.readback
	e := s.state.Editions[c.CurrentPeriod()]
	if e == nil || e.heard.IsZero() || !now.Before(e.Credential.Expires) {
		r.due = time.Time{} // nothing is published
		return
	}
	if r.asking != nil {
		return
	}
	if r.due.IsZero() {
		r.due = now.Add(readbackPause(c, readbackFirst))
	}
	if now.Before(r.due) {
		return
	}
	r.asking = e
	s.calls.Go(func() {
		got, err := s.env.Fetcher.FetchOuter(ctx, c, e.Keys, now)
		s.post(func(now time.Time) { s.compare(now, c, got, err) })
	})
}

func readbackPause(c *hsdir.Consensus, usual time.Duration) time.Duration {
	if c.Testing {
		usual = min(usual, readbackTesting)
	}
	return backoff.Jitter(usual)
}

// compare records the result of a fetch of the service's own descriptor.
func (s *Service) compare(now time.Time, c *hsdir.Consensus, got hsdir.FetchResult, fetchErr error) {
	r := &s.readback
	asked := r.asking
	r.asking = nil
	r.due = now.Add(readbackPause(c, readbackEvery))
	e := s.state.Editions[asked.Keys.Period]
	if e == nil || got.Descriptor == nil && !errors.Is(fetchErr, hsdir.ErrNotFound) && !errors.Is(fetchErr, hsdir.ErrInvalid) {
		return // the result is unknown, and earlier ones may still hold
	}
	err, republish := s.judge(now, e, asked, got, fetchErr)
	if err == nil && e == asked {
		r.at = now
	}
	if err != nil {
		r.failures++
		r.due = now.Add(min(backoff.Policy{Min: readbackFirst, Max: readbackEvery}.Delay(r.failures), readbackPause(c, readbackEvery)))
	} else {
		r.failures = 0
	}
	if republish && e == asked {
		e.lost = true
	}
	s.troubles.set(troubleReadback, err)
}

// judge returns what is wrong with the fetched descriptor, and whether publishing
// again may fix it. asked is the edition that was published when the fetch began.
func (s *Service) judge(now time.Time, e, asked *Edition, got hsdir.FetchResult, fetchErr error) (err error, republish bool) {
	d := got.Descriptor
	if d != nil && !s.keys.Ours(d.SigningCert.Key()) && d.RevisionCounter > s.counters[e.Keys.Period] {
		return fmt.Errorf("somebody else publishes under this address%s: another balancer or tor has the same key, or it was stolen",
			strangers(now, e, got.Raw)), false
	}
	if e != asked || !asked.everywhere() {
		return nil, false // HSDirs may have the one before
	}
	switch {
	case errors.Is(fetchErr, hsdir.ErrNotFound):
		return fmt.Errorf("clients do not find the descriptor that all HSDirs confirmed: %w", fetchErr), true
	case d == nil:
		return fmt.Errorf("clients do not get the descriptor that all HSDirs confirmed: %w", fetchErr), true
	case d.RevisionCounter < asked.Revision:
		return errors.New("clients get an older descriptor than the one that all HSDirs confirmed"), true
	}
	return nil, false
}

// strangers counts the introduction points of a descriptor that are not of e, if it
// can be opened.
func strangers(now time.Time, e *Edition, raw []byte) string {
	d, err := (&descriptor.Decoder{MaxSize: len(raw) + 1}).Decode(raw, e.Keys, nil, now)
	if err != nil {
		return ""
	}
	n := 0
	own := make(map[[32]byte]bool)
	for _, p := range e.Contents.IntroductionPoints {
		own[p.AuthKey] = true
	}
	for _, p := range d.IntroductionPoints {
		if !own[p.AuthKey] {
			n++
		}
	}
	return fmt.Sprintf(", with %d introduction points of their own", n)
}
