package balance

import (
	"bytes"
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/selection"
)

const (
	// firstRetry is how soon an instance is asked for again that could not be
	// found; the wait doubles up to the usual interval.
	firstRetry = 5 * time.Second
	// fetchDeadline bounds one fetch, all its HSDirs together.
	fetchDeadline = 60 * time.Second
	// settleLongest is how long planning waits for fetches that nobody answers,
	// settleRest how much longer once one of them was answered: to publish two
	// instances and then three costs more than a second's wait.
	settleLongest = 5 * time.Second
	settleRest    = time.Second
	// fetchTesting is the interval on a testing network, where a day lasts minutes.
	fetchTesting = 15 * time.Second
)

// epoch is what decides where an instance's descriptor lies and which one it
// is. When it changes, everything fetched before may be about to die.
type epoch struct {
	period descriptor.Period
	random [32]byte // of the ring that clients fetch from
	first  descriptor.Period
}

// turn makes every instance due if the consensus began a new epoch: an instance
// has other introduction points in its new descriptor, and closes the old ones.
func (s *Service) turn(now time.Time, c *hsdir.Consensus, current *hsdir.Ring, first descriptor.Period) {
	e := epoch{period: current.Period, random: current.SharedRandom, first: first}
	if e == s.epoch {
		return
	}
	if s.epoch != (epoch{}) {
		s.log.Info("new period or shared random value: fetching every instance anew",
			"period", e.period.Number, "valid_after", c.ValidAfter)
	}
	if e.period != s.epoch.period {
		s.claims, s.dawn, s.listened = newClaims(e.period), now, time.Time{}
		s.restoreClaims()
	}
	s.epoch = e
	for _, i := range s.instances {
		i.due = now
	}
}

// dawnLasts is how long after the beginning of a period, or after the start,
// points count as seen at the same time: when an instance's new descriptor
// arrives is chance, and must not decide which of two has a relay. For as long, at
// most, all instances are listened to before one is given a key.
const dawnLasts = 30 * time.Second

// note takes down what the instances offer for the first time.
func (s *Service) note(now time.Time) {
	at := now
	if now.Sub(s.dawn) < dawnLasts {
		at = s.dawn
	}
	for _, i := range s.instances {
		i.see(at)
	}
	if s.listening(now) {
		return
	}
	if s.claims.note(s.instances, s.random) || s.troubles[troubleClaims] != nil {
		s.troubles.set(troubleClaims, s.env.Store.SaveClaims(s.address, s.claims.list()))
	}
}

// listening reports whether there are keys that nobody has, and instances that
// were not asked since the first of them came up: their owner may be one of these.
// Then they are asked now.
func (s *Service) listening(now time.Time) bool {
	offers := func(i *instance) bool { return s.claims.unknown(i.offer) }
	if !slices.ContainsFunc(s.instances, offers) {
		s.listened = time.Time{}
		return false
	}
	if s.listened.IsZero() {
		s.listened = now
		for _, i := range s.instances {
			if !offers(i) {
				i.due = earlier(i.due, now)
			}
		}
	}
	return now.Sub(s.listened) < dawnLasts && slices.ContainsFunc(s.instances, func(i *instance) bool {
		return !offers(i) && i.answered.Before(s.listened)
	})
}

// restoreClaims takes in whose keys were whose before a restart in the period.
func (s *Service) restoreClaims() {
	list, err := s.env.Store.LoadClaims(s.address)
	if err != nil {
		s.log.Warn("whose introduction keys are whose is forgotten", "error", err)
	}
	s.claims.restore(list)
	s.claims.forget(s.configured)
}

// fetch starts asking for the instances that are due. Answers come to s.fetches.
func (s *Service) fetch(ctx context.Context, now time.Time, c *hsdir.Consensus) {
	for _, i := range s.instances {
		if i.asking || now.Before(i.due) {
			continue
		}
		keys, err := i.Address.Keys(s.epoch.period)
		if err != nil {
			i.err, i.due = err, now.Add(s.every)
			continue
		}
		if !s.anyAsking() {
			s.settleAt = now.Add(settleLongest)
		}
		i.asking, i.asked = true, now
		query := Query{Consensus: c, Keys: keys, Client: i.Client, Floor: i.floor(keys.Period), Now: now}
		s.query(ctx, query, s.fetches)
	}
}

// query has the HSDirs asked in the background.
func (s *Service) query(ctx context.Context, q Query, into chan<- Answer) {
	s.wait.Go(func() {
		asking, cancel := context.WithTimeout(ctx, fetchDeadline)
		defer cancel()
		answer := s.env.Fetcher.Fetch(asking, q)
		select {
		case into <- answer:
		case <-ctx.Done():
		}
	})
}

func (s *Service) anyAsking() bool {
	for _, i := range s.instances {
		if i.asking {
			return true
		}
	}
	return false
}

// absorb takes one answer in.
func (s *Service) absorb(now time.Time, a Answer) {
	for _, i := range s.instances {
		if i.Address != a.Keys.Address {
			continue
		}
		if a.Keys.Period != s.epoch.period {
			i.asking, i.due = false, now // the period changed while we asked
			return
		}
		before := i.state(now)
		i.answered = now
		renewed := i.accept(a, now)
		if after := i.state(now); after != before {
			s.log.Info("instance", "instance", i.Name, "state", after, "was", before, "points", i.usable(now), "error", i.problem())
		}
		i.due = now.Add(i.pause(s.every))
		if a.Finding == Found {
			s.settleAt = earlier(s.settleAt, now.Add(settleRest))
		}
		if renewed || s.troubles[troubleHeld] != nil {
			s.save()
		}
		return
	}
}

// pause is the time until an instance is asked for again, about every while it
// is found, and longer while it changes all the time.
func (i *instance) pause(every time.Duration) time.Duration {
	if i.restless {
		every = max(every, changesEvery)
	}
	if i.failures > 0 {
		retry := firstRetry << min(i.failures-1, 10)
		return jitter(min(retry, every))
	}
	return jitter(every)
}

// jitter spreads d by a tenth either way, so that what began together does not
// stay together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// settled reports whether planning may go ahead: no fetch is under way that is
// worth waiting for.
func (s *Service) settled(now time.Time) bool {
	return !s.anyAsking() || !now.Before(s.settleAt)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// keep takes over what is chosen now, and stores it: after a restart the same
// points are to have the same right to their relays.
func (s *Service) keep(chosen []selection.Candidate) {
	same := slices.EqualFunc(s.chosen, chosen, func(a, b selection.Candidate) bool {
		return a.Instance == b.Instance && idOf(a.Point) == idOf(b.Point)
	})
	if s.chosen = chosen; !same {
		s.save()
	}
}

// save stores the instances' descriptors, for a start at a time when the
// instances cannot be reached, and what is known of their points.
func (s *Service) save() {
	places := make(map[pointID]int, len(s.chosen))
	for n, c := range s.chosen {
		places[idOf(c.Point)] = n + 1
	}
	var held []Held
	for _, i := range s.instances {
		if i.held == nil {
			continue
		}
		h := Held{Instance: i.Address, Period: i.period.Number, Minutes: i.period.Minutes(), Renewed: i.renewed.UTC(), Raw: i.raw}
		for id, first := range i.seen {
			h.Points = append(h.Points, HeldPoint{id.auth[:], id.enc[:], id.relay, first.UTC(), places[id]})
		}
		held = append(held, h)
	}
	s.troubles.set(troubleHeld, s.env.Store.SaveHeld(s.address, held))
}

// restore takes the instances' descriptors from an earlier run. Each is
// verified again, as everything that comes from outside the process.
func (s *Service) restore(now time.Time) {
	held, err := s.env.Store.LoadHeld(s.address)
	s.troubles.set(troubleHeld, err)
	for _, h := range held {
		for _, i := range s.instances {
			if i.Address != h.Instance || i.held != nil {
				continue
			}
			keys, err := i.Address.Keys(descriptor.Period{Number: h.Period, Length: time.Duration(h.Minutes) * time.Minute})
			if err != nil {
				continue
			}
			d, err := s.decoder.Decode(h.Raw, keys, i.Client, now)
			if err != nil {
				s.log.Info("a stored descriptor is of no use any more", "instance", i.Name, "error", err)
				continue
			}
			i.held, i.raw, i.period, i.renewed = d, h.Raw, keys.Period, h.Renewed
			i.adopt(now, true)
			s.restorePoints(i, h.Points)
		}
	}
	slices.SortStableFunc(s.chosen, func(a, b selection.Candidate) int { return cmp.Compare(a.Place, b.Place) })
}

// restorePoints takes in since when the points of an instance are known, and
// which of them were published.
func (s *Service) restorePoints(i *instance, points []HeldPoint) {
	i.seen = make(map[pointID]time.Time)
	for n := range i.offer.points {
		point := &i.offer.points[n]
		id := idOf(point)
		for _, h := range points {
			if !bytes.Equal(h.AuthKey, id.auth[:]) || !bytes.Equal(h.EncKey, id.enc[:]) || h.Relay != id.relay {
				continue
			}
			i.seen[id] = h.FirstSeen
			if h.Place > 0 {
				s.chosen = append(s.chosen, selection.Candidate{Instance: i.Name, Point: point, Place: h.Place})
			}
		}
	}
}
