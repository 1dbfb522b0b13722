package balance

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/selection"
)

// Profile is what the configuration calls the way that a service is published.
func (c Config) Profile() string {
	if c.Ordinary {
		return "ordinary"
	}
	return "balanced"
}

// hearsay is the consensus that an ordinary service goes by. A tor of ours has each as
// soon as it is made, and an ordinary one 45 to 111 minutes after the one before
// was no longer fresh: only then does it move its descriptors to new HSDirs, and make
// those for a new shared random value.
type hearsay struct {
	has    *hsdir.Consensus
	newest time.Time // the valid-after of the newest that is known
	late   time.Time // when one came that was not made just before: our tor is as any other
}

const (
	justMade = 15 * time.Minute
	lateFor  = 24 * time.Hour // from which on a tor may have become early
)

// take returns the consensus to go by, when c is the newest.
func (h *hearsay) take(now time.Time, c *hsdir.Consensus, seed [32]byte) *hsdir.Consensus {
	switch {
	case c == nil || h.has == nil:
		*h = hearsay{has: c}
		if c != nil {
			h.newest = c.ValidAfter
		}
		return c
	case c.ValidAfter.After(h.newest):
		if h.newest = c.ValidAfter; now.Sub(c.ValidAfter) > justMade {
			h.late = now
		}
	}
	if now.Sub(h.late) < lateFor || !c.ValidAfter.After(h.has.ValidAfter) || !now.Before(h.due(seed)) {
		h.has = c
	}
	return h.has
}

// due returns when an ordinary tor would have another consensus. It follows from a
// secret, for nobody to know beforehand.
func (h *hearsay) due(seed [32]byte) time.Time {
	start := h.has.FreshUntil.Add(h.has.VotingInterval() * 3 / 4)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("hearsay"), seed[:]...), uint64(h.has.ValidAfter.Unix())))
	return start.Add(time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(h.has.ValidUntil.Sub(start)*7/8)))
}

// next returns when h goes by another consensus; the zero time if it has the newest.
func (h *hearsay) next(seed [32]byte) time.Time {
	if h.has == nil || !h.newest.After(h.has.ValidAfter) {
		return time.Time{}
	}
	return h.due(seed)
}

// hidden returns those of the published points that their instances have still, as far
// as anyone can know, though they show them no more: when the period changes, clients
// begin to see an instance's next descriptor, which has points of its own. The points of
// the one before go on until they end by themselves, or all of the instance's do.
func (v View) hidden(candidates, published []selection.Candidate) (list []selection.Candidate) {
	shown, of := make(map[[32]byte]bool), make(map[string][]selection.Candidate)
	for _, c := range candidates {
		shown[c.Point.AuthKey], of[c.Instance] = true, append(of[c.Instance], c)
	}
	for _, c := range published {
		n := slices.IndexFunc(v.Config.Instances, func(i Instance) bool { return i.Name == c.Instance })
		if n < 0 || len(of[c.Instance]) == 0 || shown[c.Point.AuthKey] || v.Now.Sub(c.FirstSeen) >= pointLife(c.Point.AuthKey) {
			continue
		}
		shows := v.Instances.Backends[n].Period
		if descriptor.PeriodAt(c.FirstSeen, shows.Length, v.offset) == shows || c.FirstSeen.Equal(shows.FirstUse(v.offset)) {
			continue // it is one of those that the instance shows, or was (View.made)
		}
		if v.restarted(v.Instances.Backends[n]) {
			continue
		}
		vouched, err := v.Vouch(c.Point)
		if err != nil || slices.Contains(v.Instances.Checked(n).Dead, c.Point.Relay()) {
			continue
		}
		c.Point, c.Weight, c.Load = vouched, of[c.Instance][0].Weight, of[c.Instance][0].Load
		list = append(list, c)
	}
	return list
}

// restarted reports whether an instance has none of the points left that it had when
// clients began to see its descriptor of a period: when its tor restarts, those that it
// does not show end with those that it does.
func (v View) restarted(b *backend.Backend) bool {
	began := b.Period.Start(v.offset).Add(b.Period.Length / 12) // as in View.made
	return !slices.ContainsFunc(b.Offer.Points, func(p backend.Point) bool {
		return p.FirstSeen.Before(began) && (b.Began.IsZero() || !p.FirstSeen.After(b.Began))
	})
}

// pointLife is for how long a point is taken to live that is not seen any more. tor
// draws 18 to 24 hours for each.
func pointLife(key [32]byte) time.Duration {
	return 18*time.Hour + time.Duration(binary.BigEndian.Uint64(key[:])%uint64(6*time.Hour))
}

// beside returns the authentication keys of the descriptors of most so many points that are
// published beside a period's own. When that is new, they include those of the one that it
// follows. A descriptor of more points is from before the service was to look ordinary, and
// gives way.
func (s State) beside(period, other descriptor.Period, most int) (list [][32]byte) {
	add := func(p descriptor.Period) {
		if keys := s.last(p).keys(); len(keys) <= most {
			list = append(list, keys...)
		}
	}
	add(other)
	if !s.last(period).own {
		for p := range s.Editions {
			add(p)
		}
	}
	return list
}

// keys are the authentication keys of what the first slot holds, if it is this period's.
func (l lastOf) keys() [][32]byte {
	if !l.own || len(l.places) == 0 {
		return nil
	}
	return l.places[0].holding.keys()
}

func keys(points []selection.Candidate) (list [][32]byte) {
	for _, c := range points {
		list = append(list, c.Point.AuthKey)
	}
	return list
}
