package balance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// That an HSDir confirmed an upload is its own word. So now and then the
// published descriptor is fetched as a client would and compared. This also
// finds who else publishes under the address: another balancer with the same
// key, or a thief.

const (
	readbackFirst   = time.Minute // after the first confirmation, and, doubling, after a failure
	readbackEvery   = time.Hour
	readbackTesting = 30 * time.Second // on a testing network
)

// readback is what a service knows of its own descriptor as clients get it.
type readback struct {
	asking   *edition // for which a fetch is under way, else nil
	due      time.Time
	at       time.Time // when it was last as it should be
	failures int       // in a row
}

// readBack starts a fetch of the service's own descriptor if one is due.
func (s *Service) readBack(ctx context.Context, now time.Time, c *hsdir.Consensus) {
	e := s.editions[s.epoch.period]
	if e == nil || e.heard.IsZero() || !now.Before(e.authority.expires) {
		s.readback.due = time.Time{} // nothing is out there
		return
	}
	if s.readback.asking != nil {
		return
	}
	if s.readback.due.IsZero() {
		s.readback.due = now.Add(s.readbackPause(c, readbackFirst))
	}
	if now.Before(s.readback.due) {
		return
	}
	s.readback.asking = e
	s.query(ctx, Query{Consensus: c, Keys: e.keys, Now: now}, s.readbacks)
}

func (s *Service) readbackPause(c *hsdir.Consensus, usual time.Duration) time.Duration {
	if c != nil && c.Testing {
		usual = min(usual, readbackTesting)
	}
	return jitter(usual)
}

// compare takes in what clients get.
func (s *Service) compare(now time.Time, a Answer) {
	asked := s.readback.asking
	s.readback.asking = nil
	c, _ := s.env.Network.Consensus()
	s.readback.due = now.Add(s.readbackPause(c, readbackEvery))
	e := s.editions[a.Keys.Period]
	if e == nil || a.Finding == Unreachable {
		return // nothing is known, and what was known before may still be so
	}
	err, mend := s.judge(e, asked, a)
	if err == nil && e == asked {
		s.readback.at = now
	}
	if err != nil {
		s.readback.due = now.Add(s.readbackPause(c, min(readbackFirst<<min(s.readback.failures, 10), readbackEvery)))
		s.readback.failures++
	} else {
		s.readback.failures = 0
	}
	if mend && e == asked {
		e.lost = true
	}
	s.troubles.set(troubleReadback, err)
}

// judge says what is wrong with what clients get, and whether publishing again
// may mend it. asked is the edition that was out when they were asked for it.
func (s *Service) judge(e, asked *edition, a Answer) (err error, mend bool) {
	d := a.Descriptor
	if a.Finding == Found && !s.signers[d.SigningCert.Key()] && d.RevisionCounter > s.revisions.floor(a.Keys.Period).Revision {
		return fmt.Errorf("somebody else publishes under this address, with %d introduction points of their own: "+
			"another balancer or tor has the same key, or it was stolen", strangers(e, d)), false
	}
	if e != asked || !asked.everywhere() {
		return nil, false // HSDirs may have the one before
	}
	switch {
	case a.Finding == Unknown:
		return fmt.Errorf("clients do not find the descriptor that all HSDirs confirmed: %w", a.Err), true
	case a.Finding != Found:
		return fmt.Errorf("clients do not get the descriptor that all HSDirs confirmed: %w", a.Err), true
	case d.RevisionCounter < asked.lowest():
		return errors.New("clients get an older descriptor than the one that all HSDirs confirmed"), true
	}
	return nil, false
}

// everywhere reports whether every HSDir that clients ask confirmed e.
func (e *edition) everywhere() bool {
	return !slices.ContainsFunc(e.slots, func(slot hsdir.Slot) bool { return !slot.Reserve && e.filled[slot.HSDir].confirmed.IsZero() })
}

// lowest returns the lowest revision counter that an HSDir has confirmed of e.
func (e *edition) lowest() uint64 {
	lowest := uint64(math.MaxUint64)
	for _, f := range e.filled {
		if !f.confirmed.IsZero() {
			lowest = min(lowest, f.revision)
		}
	}
	return lowest
}

// strangers counts the introduction points of d that are not of e.
func strangers(e *edition, d *descriptor.Descriptor) (n int) {
	own := make(map[[32]byte]bool)
	for _, p := range e.contents.IntroductionPoints {
		own[p.AuthKey] = true
	}
	for _, p := range d.IntroductionPoints {
		if !own[p.AuthKey] {
			n++
		}
	}
	return n
}
