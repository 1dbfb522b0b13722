package balance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/status"
)

// An HSDir's confirmation of an upload proves nothing. So the HSDirs that clients
// ask are asked for the published descriptor as well, one after the other, and what
// each has is compared. This also finds other publishers under the address: another
// balancer with the same key, or a thief.
//
// One HSDir may say what it likes: it is only named in a warning. What most of them
// say counts.

const (
	readbackFirst   = time.Minute // after the first confirmation, and, doubling, after a failure
	readbackEvery   = 10 * time.Minute
	readbackLongest = time.Hour
	readbackRate    = 2 * time.Second  // between those of all services, on average
	readbackTesting = 30 * time.Second // on a testing network
	readbackNext    = 2 * time.Second  // to the next HSDir, after one that is wrong
)

// readback is the state of fetching the service's own descriptor as clients do.
type readback struct {
	asking   *Edition // for which a fetch is in flight, else nil
	due      time.Time
	at       time.Time // when the published descriptor was last returned
	failures int       // in a row
	readings map[[20]byte]reading
}

// reading is what an HSDir that clients ask returned last.
type reading struct {
	tried    time.Time // when it was asked last, whether it answered or not
	at       time.Time // when it answered; zero if it never did
	of       which     // edition that it had confirmed, and that holds is compared with; zero: none
	holds    status.Holds
	revision uint64 // of what it returned, if that is valid
	stranger string // what is published by somebody else, if so
}

// which tells editions of a service apart. What holds one and not the edition does not
// keep its points in memory for hours.
type which struct{ period, revision uint64 }

func (e *Edition) which() which { return which{e.Keys.Period.Number, e.Revision} }

// wrong reports whether the HSDir lacks the edition that it confirmed.
func (r reading) wrong() bool {
	return r.of != (which{}) && r.holds != status.HoldsPublished && r.holds != status.HoldsOther
}

// next returns when the next fetch is due; the zero time if none is.
func (r *readback) next() time.Time {
	if r.asking != nil {
		return time.Time{}
	}
	return r.due
}

// dueIn returns when a plan is due for the next fetch: a hosted service needs none.
func (r *readback) dueIn(cfg Config) time.Time {
	if cfg.Hosted {
		return time.Time{}
	}
	return r.next()
}

// readBack asks an HSDir for the service's own descriptor if one is due.
func (s *Service) readBack(ctx context.Context, now time.Time, c *hsdir.Consensus) {
	r := &s.readback
	e := s.readable(now, c)
	if e == nil {
		r.due = time.Time{}
		return
	}
	if r.asking != nil {
		return
	}
	r.forget(e)
	if r.due.IsZero() {
		r.due = now.Add(readbackPause(c, readbackFirst))
	}
	if now.Before(r.due) {
		return
	}
	r.asking = e
	at := r.pick(e)
	confirmed := !at.confirmed.IsZero()
	hsDir := at.HSDir
	s.calls.Go(func() {
		got, err := s.env.Fetcher.AskOuter(ctx, c, e.Keys, hsDir, now)
		s.postQuietly(func(now time.Time) {
			before := s.readback.failures
			s.compare(now, c, hsDir, confirmed, got, err)
			s.replan = s.replan || !s.cfg.Hosted || s.readback.failures != before || e.lost
		})
	})
}

// readable returns the edition that clients find, nil if nothing is published, or no more.
func (s *Service) readable(now time.Time, c *hsdir.Consensus) *Edition {
	e := s.state.Editions[c.CurrentPeriod()]
	if e == nil || s.cfg.Withdrawn || e.heard.IsZero() || !now.Before(e.expires()) {
		return nil
	}
	return e
}

// forget drops what is known of HSDirs that clients of e do not ask.
func (r *readback) forget(e *Edition) {
	for h := range r.readings {
		if at := e.slot(h); at == nil || at.Reserve {
			delete(r.readings, h)
		}
	}
}

// pick returns the slot to look at, of those that clients ask: one that was wrong and
// has confirmed since, or else the one that was not looked at for the longest time.
func (r *readback) pick(e *Edition) *slot {
	var oldest *slot
	for n := range e.slots {
		at := &e.slots[n]
		if at.Reserve {
			continue
		}
		is := r.readings[at.HSDir]
		if !is.at.IsZero() && is.holds != status.HoldsPublished && at.confirmed.After(is.tried) {
			return at
		}
		if oldest == nil || is.tried.Before(r.readings[oldest.HSDir].tried) {
			oldest = at
		}
	}
	return oldest
}

func readbackPause(c *hsdir.Consensus, usual time.Duration) time.Duration {
	if c.Testing {
		usual = min(usual, readbackTesting)
	}
	return backoff.Jitter(usual)
}

// readbackInterval is the time between two fetches: longer while there are very many
// services.
func (s *Service) readbackInterval() time.Duration {
	all := time.Duration(s.env.Backends.Services()) * readbackRate
	if s.cfg.Reclaim {
		return max(reclaimEvery, all)
	}
	return min(max(readbackEvery, all), readbackLongest)
}

// compare records what an HSDir returned.
func (s *Service) compare(now time.Time, c *hsdir.Consensus, hsDir [20]byte, confirmed bool, got hsdir.FetchResult, fetchErr error) {
	r := &s.readback
	asked := r.asking
	r.asking = nil
	r.due = now.Add(readbackPause(c, s.readbackInterval()))
	e := s.state.Editions[asked.Keys.Period]
	if is, _ := s.env.Consensus.Consensus(); is != nil && is.CurrentPeriod() != asked.Keys.Period {
		e = nil // tor has asked for another one
	}
	if e == nil {
		s.readForVisit(nil)
		return
	}
	if r.readings == nil {
		r.readings = make(map[[20]byte]reading)
	}
	before := r.readings[hsDir]
	read := before
	read.tried = now
	if got.Descriptor != nil || errors.Is(fetchErr, hsdir.ErrNotFound) || errors.Is(fetchErr, hsdir.ErrInvalid) {
		read = reading{tried: now, at: now}
		read.holds, read.revision = s.holds(asked, got, fetchErr)
		if e == asked && confirmed { // else it may have the one before
			read.of = e.which()
		}
		if read.holds == status.HoldsOther {
			read.stranger = strangers(now, e, got.Raw)
		}
	} // else the result is unknown, and an earlier one may still hold
	r.readings[hsDir] = read
	if read.at == now && read.of != (which{}) && read.holds == status.HoldsPublished {
		r.at = now
	}
	if at := e.slot(hsDir); at != nil && e == asked && read.at == now && read.holds == status.HoldsPublished {
		s.readForVisit(at.holding)
	} else {
		s.readForVisit(nil) // tor may have another one
	}
	s.judge(now, c, e, read, before)
	s.reclaim(now, c, e, read)
}

// holds compares what an HSDir returned with an edition.
func (s *Service) holds(e *Edition, got hsdir.FetchResult, fetchErr error) (status.Holds, uint64) {
	d := got.Descriptor
	switch {
	case errors.Is(fetchErr, hsdir.ErrNotFound):
		return status.HoldsNone, 0
	case d == nil:
		return status.HoldsInvalid, 0
	case d.SigningCert.Key() != e.signer && !s.keys.Ours(d.SigningCert.Key()) && d.RevisionCounter >= s.counters[e.Keys.Period]:
		return status.HoldsOther, d.RevisionCounter
	case d.RevisionCounter < e.Revision:
		return status.HoldsOlder, d.RevisionCounter
	}
	return status.HoldsPublished, d.RevisionCounter
}

// judge says what follows from all that HSDirs returned, read the last of it, which
// was before.
func (s *Service) judge(now time.Time, c *hsdir.Consensus, e *Edition, read, before reading) {
	r := &s.readback
	all, wrong := 0, make(map[status.Holds]int)
	unread, stranger, others := 0, false, false
	for n := range e.slots {
		at := &e.slots[n]
		if at.Reserve {
			continue
		}
		all++
		is := r.readings[at.HSDir]
		switch {
		case is.holds == status.HoldsOther:
			stranger = true
		case is.wrong() && is.of == e.which():
			wrong[is.holds]++
		case is.of != e.which() && !at.confirmed.IsZero() && is.tried.Before(e.Built):
			unread++
		}
		others = others || is.wrong() && is != read
	}
	lost := wrong[status.HoldsNone] + wrong[status.HoldsOlder] + wrong[status.HoldsInvalid]
	var err error
	switch {
	case stranger && s.cfg.Reclaim:
		err = fmt.Errorf("another machine has published under this address%s: the standby, or somebody else who has the same key", s.stranger())
	case stranger:
		err = fmt.Errorf("somebody else publishes under this address%s: another balancer or tor has the same key, or it was stolen", s.stranger())
	case 2*lost > all:
		err = fmt.Errorf("clients do not find the descriptor that HSDirs confirmed: of the %d HSDirs that they ask, %s", all, counts(wrong))
		e.lost = true
	case read.of == e.which() && read.wrong() && unread > 0 && (others || !before.wrong()):
		// It may be the first of many. A single one that was wrong before costs no more.
		r.due = now.Add(readbackNext)
		return
	}
	s.troubles.set(troubleReadback, err)
	if err == nil {
		r.failures = 0
	}
	if err == nil || !read.wrong() && read.holds != status.HoldsOther {
		return
	}
	r.failures++
	r.due = now.Add(min(backoff.Policy{Min: readbackFirst, Max: readbackLongest}.Delay(r.failures), readbackPause(c, readbackLongest)))
}

// stranger says what somebody else publishes, if that is known.
func (s *Service) stranger() string {
	for _, r := range s.readback.readings {
		if r.stranger != "" {
			return r.stranger
		}
	}
	return ""
}

// counts writes "4 have none, 1 has an older one".
func counts(wrong map[status.Holds]int) string {
	var parts []string
	for _, of := range []struct {
		holds status.Holds
		what  string
	}{{status.HoldsNone, "none"}, {status.HoldsOlder, "an older one"}, {status.HoldsInvalid, "an invalid one"}} {
		switch n := wrong[of.holds]; n {
		case 0:
		case 1:
			parts = append(parts, "1 has "+of.what)
		default:
			parts = append(parts, fmt.Sprintf("%d have %s", n, of.what))
		}
	}
	return strings.Join(parts, ", ")
}

// liars lists the HSDirs that alone do not have what they confirmed. That is no
// reason to change anything.
func (s *Service) liars() (texts []string) {
	for h, r := range s.readback.readings {
		if !r.wrong() {
			continue
		}
		what := map[status.Holds]string{
			status.HoldsNone:    "has no descriptor, although it confirmed one",
			status.HoldsOlder:   "hands out an older descriptor than it confirmed",
			status.HoldsInvalid: "hands out an invalid descriptor, although it confirmed a good one",
		}[r.holds]
		texts = append(texts, "HSDir "+hsdir.Relay{Fingerprint: h}.Hex()+" "+what)
	}
	slices.Sort(texts)
	return texts
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
	for _, at := range e.slots {
		for _, p := range at.holding.IntroductionPoints {
			own[p.AuthKey] = true
		}
	}
	for _, p := range d.IntroductionPoints {
		if !own[p.AuthKey] {
			n++
		}
	}
	return fmt.Sprintf(", with %d introduction points of their own", n)
}
