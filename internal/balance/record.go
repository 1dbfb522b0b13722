package balance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/state"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

// record is the loop's state of the service's record in the store.
type record struct {
	version uint64
	dirty   bool      // there are changes to store
	began   time.Time // when the write in flight began; zero if there is none
	// overtaken says that somebody else stored counters, which ours must exceed in
	// the store before one is used.
	overtaken bool
	retryAt   time.Time
	failed    time.Time // when the last write that failed did
	failures  backoff.Backoff
	err       error // of the last write, if that failed

	// Of a service that reserves counters before it uses them:
	ceilings counters    // that a write covered which the store confirmed
	until    time.Time   // when the clock's counters exceed these, by the wall clock; zero if that is not known
	tried    counters    // the highest of writes whose outcome is not known
	known    bool        // it was read
	owner    string      // as it was read first; empty if it had none
	term     uint64      // of the owner
	unread   atomic.Bool // it has to be looked at before anything is made or launched
	doubted  time.Time   // since when that is tried, by the wall clock, if it is known
	reading  bool
}

// The delay after a failed write, and its maximum; and how long an edition waits
// for a write in flight, unless counters are reserved: see reservation. A single manager
// publishes even though its disk is full or hangs: its counters then follow the clock
// after a restart.
const (
	retryStore    = time.Second
	retryStoreMax = 5 * time.Minute
	storeTimeout  = 10 * time.Second
)

// due returns when there is something to do about the record.
func (r *record) due(now time.Time) time.Time {
	switch {
	case !r.began.IsZero() && r.began.Add(storeTimeout).After(now):
		return r.began.Add(storeTimeout)
	case r.began.IsZero() && r.dirty:
		return r.retryAt
	}
	return time.Time{}
}

// save writes the record in the background, if it changed: the counters of
// editions are on disk before the editions are uploaded.
func (s *Service) save(now time.Time) {
	r := &s.record
	if s.env.Reserve > 0 {
		s.reserveAgain(now)
	}
	covered := func() []*Edition { return slices.Collect(maps.Values(s.state.Editions)) }
	switch {
	case !r.began.IsZero():
		if now.Sub(r.began) >= storeTimeout {
			s.unstored(now, fmt.Errorf("no answer within %s", storeTimeout), covered())
		}
		return
	case !r.dirty:
		return
	}
	if s.env.Reserve > 0 && s.held() != nil { // perhaps only since the last write failed
		r.retryAt = times.Earlier(r.retryAt, r.failed.Add(retryHeld))
	}
	if now.Before(r.retryAt) { // the last write failed
		if !r.overtaken {
			s.unstored(now, r.err, covered())
		}
		return
	}
	r.dirty, r.began = false, now
	ceilings, until := s.reservation(now), now.Round(0).Add(s.env.Reserve)
	if s.env.Reserve > 0 {
		r.try(ceilings)
	}
	written, version, all, doubted := s.written(ceilings), r.version, covered(), !r.doubted.IsZero()
	s.calls.Go(func() {
		failpoint.Reach(failpoint.Swap)
		// Also when the service ends: counters that were used must be recorded.
		version, err := s.env.Store.SwapService(context.Background(), s.address, version, written)
		if errors.Is(err, state.ErrFenced) {
			s.fence(err)
			return
		}
		if errors.Is(err, state.ErrConflict) {
			if other, current, readErr := s.env.Store.Service(s.address); readErr == nil {
				s.post(func(now time.Time) { s.overtaken(now, other, current, err) })
				return
			}
		}
		done := func(now time.Time) {
			if err == nil && s.env.Reserve > 0 {
				r.ceilings, r.until, r.tried = ceilings, until, nil
				if doubted { // else the write may be older than what it is in doubt for
					s.certain()
				}
			}
			s.saved(now, version, err, all)
		}
		if !s.postQuietly(done) { // the service ends, and releases what it has reserved
			s.mu.Lock()
			defer s.mu.Unlock()
			done(s.env.Now())
		}
	})
}

// overtaken handles a conflict with another record than ours: an earlier write was
// done but its answer was lost, or another manager publishes too. Editions that are
// not below its counters are made again, above them, and nothing is uploaded until
// that is stored.
func (s *Service) overtaken(now time.Time, other state.Service, version uint64, err error) {
	r := &s.record
	r.version, s.state.Version = version, version
	if r.known && r.owner != "" && (other.Owner != r.owner || other.Term != r.term) {
		s.fence(fmt.Errorf("%w: in term %d, after %d", state.ErrFenced, other.Term, r.term))
		return
	}
	if s.env.Reserve > 0 {
		own := r.own(other.Ceilings)
		r.ceilings, r.until, r.tried = countersIn(other.Ceilings), time.Time{}, nil
		if own { // these are reserved, and not used
			s.saved(now, version, err, nil)
			return
		}
	}
	r.overtaken = true
	s.troubles.set(troubleCounters, s.counters.raise(other.Ceilings))
	for p, e := range s.state.Editions {
		e.outdone = e.outdone || s.counters[p] > e.Revision
	}
	s.saved(now, version, err, nil)
}

func period(c state.Ceiling) descriptor.Period {
	return descriptor.Period{Number: c.Period, Length: time.Duration(c.Minutes) * time.Minute}
}

// saved records the result of a write of the record.
func (s *Service) saved(now time.Time, version uint64, err error, covered []*Edition) {
	r := &s.record
	r.began = time.Time{}
	s.step = true
	s.replan = s.replan || err != nil || s.troubles[troubleFloors] != nil // and report
	r.err = err
	if err != nil {
		r.failed = now
		r.failures.Policy = backoff.Policy{Min: retryStore, Max: retryStoreMax}
		if s.env.Reserve > 0 && s.held() != nil {
			r.failures.Policy.Max = retryHeld
		}
		r.dirty, r.retryAt = true, now.Add(r.failures.Next())
		s.unstored(now, err, covered)
		return
	}
	r.version, r.retryAt, r.overtaken = version, time.Time{}, false
	s.state.Version = version
	r.failures.Reset()
	s.troubles.set(troubleFloors, nil)
	s.troubles.set(troubleCounters, nil) // what was not believed is gone
	reserve(covered)
}

// reserve marks editions whose counters are stored as ready.
func reserve(list []*Edition) {
	for _, e := range list {
		e.reserved = true
	}
}

// written returns the record to store.
func (s *Service) written(ceilings counters) state.Service {
	out := state.Service{Ceilings: ceilings.stored()}
	points := recordedPoints{out: &out, places: make(map[backend.ID]int)}
	if s.cfg.Ordinary {
		points.known = s.state.Published
	}
	for _, e := range s.state.inOrder() {
		p, places := e.Keys.Period, e.places()
		out.Made = append(out.Made, state.Made{
			Period: p.Number, Minutes: p.Minutes(), Revision: e.Revision, Contents: digest(places, s.client()), Signer: e.signer,
			Built: e.Built.UTC(), Refresh: e.Refresh.UTC(), Pending: !e.complete(), Turn: e.Turn, Slots: points.slots(places),
			Left: left(places),
		})
		if !e.due.Equal(e.Refresh) {
			out.Made[len(out.Made)-1].Due = e.due.UTC()
		}
	}
	for p, b := range s.state.Before {
		if s.state.Editions[p] == nil && p != (descriptor.Period{}) {
			made := b.made
			made.Slots = points.slots(b.places)
			out.Made = append(out.Made, made)
		}
	}
	if !s.cfg.Resume || s.cfg.Hosted { // else whoever goes on from it has to know whether the HSDirs are others
		points.leaveOut()
	}
	for a, at := range s.drained {
		out.Drained = append(out.Drained, state.Drained{Instance: state.Address(a), At: at.UTC()})
	}
	return out
}

// recordedPoints collects the points of a record, and says which of them slots hold.
type recordedPoints struct {
	out    *state.Service
	places map[backend.ID]int    // in out.Points
	known  []selection.Candidate // those to be recorded whole
}

// slots returns what HSDirs of the ring hold.
func (r *recordedPoints) slots(places []place) (list []state.Slot) {
	for _, at := range places {
		if at.Left || at.holding == nil {
			continue
		}
		s := state.Slot{HSDir: hsdir.Relay{Fingerprint: at.HSDir}.Hex(), Replica: at.Replica}
		for n := range at.holding.IntroductionPoints {
			s.Points = append(s.Points, r.place(&at.holding.IntroductionPoints[n], at.holding.owners[n]))
		}
		list = append(list, s)
	}
	return list
}

func (r *recordedPoints) place(p *descriptor.IntroductionPoint, owner descriptor.Address) int {
	id := backend.IDOf(p)
	n, known := r.places[id]
	if !known {
		n = len(r.out.Points)
		r.places[id] = n
		published := state.Published{
			Instance: state.Address(owner), AuthKey: state.Bytes32(p.AuthKey), EncKey: state.Bytes32(p.EncKey), Relay: p.Relay().String(),
		}
		if at := slices.IndexFunc(r.known, func(c selection.Candidate) bool { return c.Point.AuthKey == p.AuthKey }); at >= 0 {
			published.Rest = &state.PublishedRest{FirstSeen: r.known[at].FirstSeen.UTC(), Expires: p.Expires.UTC(), OnionKey: state.Bytes32(p.OnionKey), Links: p.LinkSpecifiers}
		}
		r.out.Points = append(r.out.Points, published)
	}
	return n
}

// leaveOut removes the slots of editions in which all hold all points.
func (r *recordedPoints) leaveOut() {
	for n := range r.out.Made {
		if !slices.ContainsFunc(r.out.Made[n].Slots, func(s state.Slot) bool { return !r.all(s.Points) }) {
			r.out.Made[n].Slots = nil
		}
	}
}

func (r *recordedPoints) all(points []int) bool {
	for n, place := range points {
		if n != place {
			return false
		}
	}
	return len(points) == len(r.out.Points)
}

// digest identifies what all HSDirs of a ring hold: two managers that make the same,
// each for itself as another client, have the same digest.
func digest(places []place, own *descriptor.ClientKey) state.Bytes32 {
	sums := make(map[*holding]state.Bytes32)
	distinct := make(map[state.Bytes32]bool)
	h := sha256.New()
	var last state.Bytes32
	for _, at := range inOrderOfHSDir(places) {
		if at.Left || at.holding == nil {
			continue
		}
		sum, known := sums[at.holding]
		if !known {
			sum = digestOf(at.holding.Contents, own)
			sums[at.holding], distinct[sum], last = sum, true, sum
		}
		h.Write(at.HSDir[:])
		h.Write(sum[:])
	}
	if len(distinct) == 1 {
		return last // whatever the HSDirs are
	}
	return state.Bytes32(h.Sum(nil))
}

// digestOf identifies contents.
func digestOf(c *descriptor.Contents, own *descriptor.ClientKey) state.Bytes32 {
	clients := c.Clients
	if own != nil {
		clients = slices.DeleteFunc(slices.Clone(clients), func(a descriptor.AuthorizedClient) bool { return a == own.Client() })
	}
	h := sha256.New()
	for n := range c.IntroductionPoints {
		id := backend.IDOf(&c.IntroductionPoints[n])
		h.Write(id.Auth[:])
		h.Write(id.Enc[:])
		h.Write(id.Relay[:])
	}
	if c.FlowControl != nil {
		fmt.Fprintf(h, "flow %s %d", c.FlowControl.Versions, c.FlowControl.SendmeInc)
	}
	fmt.Fprintf(h, "single %t clients %d", c.SingleOnion, len(clients))
	for _, client := range clients {
		_ = binary.Write(h, binary.BigEndian, client)
	}
	fmt.Fprintf(h, "caa %v critical %t", c.CAA, c.CAACritical)
	return state.Bytes32(h.Sum(nil))
}

// read is the result of reading the record.
type read struct {
	stored  state.Service
	version uint64
	err     error
}

// read reads the record. If the store hangs, it stops waiting; the stored record is
// then found by the first write.
func (s *Service) read(ctx context.Context) read {
	answer := make(chan read, 1)
	go func() {
		stored, version, err := s.env.Store.Service(s.address)
		answer <- read{stored, version, err}
	}()
	timer := time.NewTimer(storeTimeout)
	defer timer.Stop()
	select {
	case r := <-answer:
		return r
	case <-timer.C:
		return read{err: fmt.Errorf("reading the revision counter: no answer within %s", storeTimeout)}
	case <-ctx.Done():
		return read{err: ctx.Err()}
	}
}

// restore applies the stored record: the counters that may have been used, and
// the published points, which have an older right to their relays, with the HSDirs
// that hold them.
func (s *Service) restore(r read) {
	s.troubles.set(troubleFloors, r.err)
	s.record.version, s.state.Version = r.version, r.version
	s.state.unread = time.Time{}
	if r.err != nil {
		s.state.unread = s.started.Add(keptFor)
	}
	s.record.known, s.record.owner, s.record.term = r.err == nil, r.stored.Owner, r.stored.Term
	s.record.unread.Store(r.err != nil && s.env.Reserve > 0)
	s.troubles.set(troubleCounters, s.counters.raise(r.stored.Ceilings))
	for _, d := range r.stored.Drained {
		s.drained.note(descriptor.Address(d.Instance), d.At)
	}
	for _, p := range r.stored.Points {
		for _, i := range s.cfg.Instances {
			if i.Address == descriptor.Address(p.Instance) {
				c := selection.Candidate{Instance: i.Name, Point: storedPoint(p)}
				if p.Rest != nil {
					c.FirstSeen = p.Rest.FirstSeen
				}
				s.state.Published = append(s.state.Published, c)
			}
		}
	}
	made := r.stored.Made
	if len(made) == 0 && len(r.stored.Points) > 0 {
		made = []state.Made{{}} // of a period that is not known
	}
	s.state.Before = make(map[descriptor.Period]*past, len(made))
	for _, m := range made {
		p := descriptor.Period{Number: m.Period, Length: time.Duration(m.Minutes) * time.Minute}
		s.state.Before[p] = &past{m, append(s.storedPlaces(m.Slots, r.stored.Points), storedLeft(m.Left)...)}
	}
}

// storedPlaces returns what HSDirs were given, of instances that are still
// configured.
func (s *Service) storedPlaces(slots []state.Slot, points []state.Published) []place {
	if len(slots) == 0 { // one place stands for all
		all := make([]int, len(points))
		for n := range all {
			all[n] = n
		}
		slots = []state.Slot{{Points: all}}
	}
	list := make([]place, 0, len(slots))
	for _, at := range slots {
		h := &holding{Contents: new(descriptor.Contents)}
		for _, n := range at.Points {
			if n < 0 || n >= len(points) || !slices.ContainsFunc(s.cfg.Instances, func(i Instance) bool { return i.Address == descriptor.Address(points[n].Instance) }) {
				continue
			}
			h.IntroductionPoints = append(h.IntroductionPoints, *storedPoint(points[n]))
			h.owners = append(h.owners, descriptor.Address(points[n].Instance))
		}
		p := place{Slot: hsdir.Slot{Replica: at.Replica}, holding: h}
		if relay, err := descriptor.ParseFingerprint(at.HSDir); err == nil {
			p.HSDir = relay
		}
		list = append(list, p)
	}
	return list
}

// left lists the places that left, for the record.
func left(places []place) (list []state.Left) {
	for _, at := range places {
		if at.Left {
			list = append(list, state.Left{HSDir: hsdir.Relay{Fingerprint: at.HSDir}.Hex(), Replica: at.Replica, At: time.Unix(at.leftAt, 0).UTC()})
		}
	}
	return list
}

// storedLeft is the inverse of left; the places hold nothing.
func storedLeft(list []state.Left) (places []place) {
	for _, l := range list {
		if relay, err := descriptor.ParseFingerprint(l.HSDir); err == nil {
			places = append(places, place{Slot: hsdir.Slot{HSDir: relay, Replica: l.Replica, Reserve: true, Left: true}, leftAt: l.At.Unix()})
		}
	}
	return places
}

// storedPoint is the part of a published point that the record keeps.
func storedPoint(p state.Published) *descriptor.IntroductionPoint {
	point := &descriptor.IntroductionPoint{AuthKey: p.AuthKey, EncKey: p.EncKey}
	if relay, err := descriptor.ParseFingerprint(p.Relay); err == nil {
		point.LinkSpecifiers = []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: relay[:]}}
	}
	if p.Rest != nil {
		point.LinkSpecifiers, point.OnionKey, point.Expires = p.Rest.Links, p.Rest.OnionKey, p.Rest.Expires
	}
	return point
}
