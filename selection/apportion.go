package selection

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// enoughPoints is how many introduction points a descriptor should have even at
// the price of uneven shares: what tor gives an ordinary service.
const enoughPoints = 3

// rule is what strategies differ in.
type rule struct {
	weight  func(Candidate) float64  // nil: all instances weigh the same
	compare func(a, b Candidate) int // the better candidate first; nil: none is better
	fill    bool                     // as many points as fit, though shares differ
}

// apportion gives every instance its quota of points: what is published of it, as
// long as it offers that, and for the rest the best that it has. The quotas come
// from the weights and the room alone. So what one instance offers decides which
// points of its own are chosen, and nothing about the others'.
func apportion(candidates []Candidate, room Room, random *rand.Rand, r rule) []Candidate {
	quota := quotas(candidates, room, r)
	groups := inOrder(groupByInstance(shuffled(firstCome(candidates), random), r), r)
	m := newMatching(groups)
	// The last ones of more instances than points have their turn when others have
	// no relay.
	m.keep(groups[:max(0, min(len(groups), room.Points))], quota)
	for given := true; given; { // in turns, so that none takes all that two want
		given = false
		for g := range groups {
			given = m.total < room.Points && m.count[g] < quota[groups[g].instance] && m.add(g) || given
		}
	}
	return arrange(m.chosen(), random)
}

// inOrder sorts the instances by who is to have a point first: the heavy ones,
// then the published ones, then those with the better points.
func inOrder(groups []group, r rule) []group {
	slices.SortStableFunc(groups, func(a, b group) int {
		return cmp.Or(
			cmp.Compare(b.weight, a.weight),
			cmp.Compare(min(b.placed, 1), min(a.placed, 1)),
			r.prefer(a.options[0].candidate, b.options[0].candidate),
		)
	})
	return groups
}

// firstCome returns a copy without candidates that came too late: another was
// there before on the same relay, or with the same authentication key. Of those
// that came together, all may compete for a relay, but only one has a key: the
// published one, or else the one that is first in candidates.
func firstCome(candidates []Candidate) []Candidate {
	byAge := slices.Clone(candidates)
	slices.SortStableFunc(byAge, func(a, b Candidate) int {
		return cmp.Or(a.FirstSeen.Compare(b.FirstSeen), comparePlaced(a, b))
	})
	relays, keys := make(map[string]time.Time), make(map[[32]byte]bool)
	return slices.DeleteFunc(byAge, func(c Candidate) bool {
		relay, key := c.Point.Relay(), c.Point.AuthKey
		if keys[key] {
			return true
		}
		keys[key] = true
		first, taken := relays[relay]
		if !taken {
			relays[relay] = c.FirstSeen
		}
		return taken && first.Before(c.FirstSeen)
	})
}

func (r rule) weigh(c Candidate) float64 {
	if r.weight == nil {
		return 1
	}
	return r.weight(c)
}

func (r rule) prefer(a, b Candidate) int {
	if r.compare == nil {
		return 0
	}
	return r.compare(a, b)
}

// party is an instance that is to have points.
type party struct {
	instance string
	weight   float64
	count    int
}

// quotas says how many points each instance may have. It gives one to each, then
// one at a time to whoever is furthest behind its share (the method of Webster
// and Sainte-Laguë, which for equal weights is breadth first), and returns where
// the shares came nearest to the weights, of equally good places the last one.
// A rule that fills goes on as long as there is room. An instance alone has all.
func quotas(candidates []Candidate, room Room, r rule) map[string]int {
	var parties []party
	quota := make(map[string]int)
	for _, c := range candidates {
		if quota[c.Instance] == 0 {
			quota[c.Instance] = 1
			parties = append(parties, party{c.Instance, r.weigh(c), 1})
		}
	}
	most := room.PerInstance
	if len(parties) == 1 {
		most = room.Points
	}
	bestTotal, bestError := len(parties), shareError(parties)
	for total := len(parties); total < room.Points; {
		next := -1
		for n, p := range parties {
			if p.count < most && (next < 0 || p.before(parties[next])) {
				next = n
			}
		}
		if next < 0 {
			break
		}
		parties[next].count++
		total++
		const rounding = 1e-9
		if e := shareError(parties); r.fill || bestTotal < enoughPoints || e <= bestError+rounding {
			bestTotal, bestError = total, e
			for _, p := range parties {
				quota[p.instance] = p.count
			}
		}
	}
	return quota
}

// before reports whether p is to have another point before q.
func (p party) before(q party) bool {
	return cmp.Or(
		cmp.Compare(q.weight/float64(2*q.count+1), p.weight/float64(2*p.count+1)),
		cmp.Compare(q.weight, p.weight),
		cmp.Compare(p.instance, q.instance),
	) < 0
}

// shareError is the part of the clients, 0 to 1, that go to another instance
// than the weights would have it.
func shareError(parties []party) float64 {
	var weights, total, sum float64
	for _, p := range parties {
		weights += p.weight
		total += float64(p.count)
	}
	for _, p := range parties {
		sum += math.Abs(float64(p.count)/total - p.weight/weights)
	}
	return sum / 2
}
