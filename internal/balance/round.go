package balance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/selection"
)

// Round is one pass from the consensus to the HSDirs, with what each stage of it
// produced. A round in which nothing changed ends after its plan, which is empty.
type Round struct {
	Now       time.Time
	Consensus *hsdir.Consensus
	Rings     []*hsdir.Ring // of the first and of the second descriptor
	Pool      pool          // empty while fetches are worth waiting for
	Chosen    []selection.Candidate
	Fallback  bool // no instance is ok: the contents are what was last known
	Contents  *descriptor.Contents
	Planned   bool // the round came to its plan
	Plan      []step
	Published []*edition
	Err       error // what stopped the round, or a part of it
}

// round takes the service through all stages once. Every stage gives up for
// itself: what cannot be done now is done by a later round.
func (s *Service) round(ctx context.Context, now time.Time) (r Round) {
	r.Now = now
	if r.Consensus, r.Rings, r.Err = s.consult(now); r.Err != nil {
		return r
	}
	s.certify(now, r.Rings)
	s.fetch(ctx, now, r.Consensus)
	if !s.settled(now) {
		return r
	}
	s.note(now)
	r.Pool = gather(now, s.instances, r.Consensus.Vouch, s.claims)
	r.Chosen = s.choose(r.Pool.candidates, r.Rings[0].MaxDescriptorSize())
	r.Contents = contents(r.Chosen, s.instances, r.Pool.flow, r.Consensus.Params.SendmeInc)
	if len(r.Chosen) == 0 {
		r.Contents = remaining(s.contents, now) // an empty descriptor is never published
	}
	r.Planned = true
	r.Plan = s.plan(now, r.Rings, r.Contents)
	r.Published, r.Err = s.publish(ctx, now, r.Plan)
	s.readBack(ctx, now, r.Consensus)
	return r
}

// consult looks at the consensus and works out the rings of both descriptors.
func (s *Service) consult(now time.Time) (*hsdir.Consensus, []*hsdir.Ring, error) {
	c, err := s.env.Network.Consensus()
	if c == nil {
		return nil, nil, fmt.Errorf("waiting for tor to have a consensus: %w", cmp.Or(err, ErrNoConsensus))
	}
	first, err := c.First()
	if err != nil {
		return c, nil, err
	}
	second, err := c.Second()
	if err != nil {
		return c, nil, err
	}
	if s.every = s.cfg.FetchEvery; s.cfg.Automatic && c.Testing {
		s.every = min(s.every, fetchTesting)
	}
	s.turn(now, c, c.Current(), first.Period)
	return c, []*hsdir.Ring{first, second}, nil
}

// choose selects the points of the next descriptor, which must stay below size
// bytes, so that what is published stays as long as it is as good as anything
// else.
func (s *Service) choose(list []selection.Candidate, size int) []selection.Candidate {
	published := make([]descriptor.IntroductionPoint, len(s.chosen))
	for i, c := range s.chosen {
		published[i] = *c.Point
	}
	selection.Mark(list, published)
	room := s.cfg.Room
	room.Points = min(room.Points, new(descriptor.Contents).MaxPoints(size))
	return s.cfg.Strategy.Select(list, room, s.random)
}

// plan works out what should be at the HSDirs, and what is to be done for it.
func (s *Service) plan(now time.Time, rings []*hsdir.Ring, c *descriptor.Contents) []step {
	if c == nil {
		return nil // what was published stays
	}
	var targets []wanted
	for _, ring := range rings {
		keys, err := s.keysFor(ring.Period)
		if err != nil {
			s.log.Error("no keys", "error", err) // of an address that was valid at the start
			continue
		}
		targets = append(targets, wanted{
			ring: ring, keys: keys, authority: s.usable(now, ring.Period), contents: c, slots: ring.Slots(keys.Blinded),
		})
	}
	return plan(now, targets, s.editions)
}

// keysFor returns the keys of a period, derived once.
func (s *Service) keysFor(p descriptor.Period) (descriptor.PeriodKeys, error) {
	if keys, ok := s.keys[p]; ok {
		return keys, nil
	}
	keys, err := s.address.Keys(p)
	if err == nil {
		s.keys[p] = keys
	}
	return keys, err
}

// finish records a round and forgets what no later one needs.
func (s *Service) finish(r Round) {
	s.rounds++
	s.lastRound = r.Now
	if r.Rings == nil && !errors.Is(r.Err, ErrNoConsensus) {
		s.troubles.set(troubleNetwork, r.Err)
	} else {
		s.troubles.set(troubleNetwork, nil)
	}
	if r.Planned {
		s.noteShares(r.Chosen)
		s.contents = r.Contents
		s.keep(r.Chosen)
		s.left, s.thefts = r.Pool.left, r.Pool.thefts
		s.noteLack(s.lacks(r.Now, r.Pool.fallback))
	}
	if len(r.Rings) > 0 {
		old := func(p descriptor.Period) bool {
			return !slices.ContainsFunc(r.Rings, func(ring *hsdir.Ring) bool { return ring.Period == p })
		}
		maps.DeleteFunc(s.keys, func(p descriptor.Period, _ descriptor.PeriodKeys) bool { return old(p) })
		over := len(r.Published) > 0
		maps.DeleteFunc(s.editions, func(p descriptor.Period, e *edition) bool {
			over = over || old(p) || !r.Now.Before(e.authority.expires)
			return old(p)
		})
		if over {
			s.retain(r.Now)
		}
		s.forgetCustody(old)
	}
	s.report(r)
}
