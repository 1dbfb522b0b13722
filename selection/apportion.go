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
// long as it offers that, and for the rest the best that it has. The
// quotas come from the weights and the room alone. So what one instance offers
// decides which points of its own are chosen, and nothing about the others'.
func apportion(candidates []Candidate, room Room, random *rand.Rand, r rule) []Candidate {
	groups := groupByInstance(shuffled(firstCome(candidates), random), r)
	groups = represented(groups, room.Points, r)
	quota := quotas(groups, room, r.fill)
	m := newMatching(groups)
	m.keep(quota)
	for given := true; given; { // in turns, so that none takes all that two want
		given = false
		for g := range groups {
			given = m.count[g] < quota[g] && m.add(g) || given
		}
	}
	return arrange(m.chosen(), random)
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

// represented returns the instances that get a point at all: as many as the
// relays and the limit allow, the heavy ones first, then the published ones, then
// those with the better points.
func represented(groups []group, limit int, r rule) []group {
	slices.SortStableFunc(groups, func(a, b group) int {
		return cmp.Or(
			cmp.Compare(b.weight, a.weight),
			cmp.Compare(min(b.placed, 1), min(a.placed, 1)),
			r.prefer(a.options[0].candidate, b.options[0].candidate),
		)
	})
	m := newMatching(groups)
	var in []group
	for g := range groups {
		if m.total < limit && m.add(g) {
			in = append(in, groups[g])
		}
	}
	return in
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

// quotas says how many points each instance may have. It gives one to each, then
// one at a time to whoever is furthest behind its share (the method of Webster
// and Sainte-Laguë, which for equal weights is breadth first), and returns where
// the shares came nearest to the weights, of equally good places the last one.
// With fill it goes on as long as there is room. An instance alone has all.
func quotas(groups []group, room Room, fill bool) []int {
	most := room.PerInstance
	if len(groups) == 1 {
		most = room.Points
	}
	count := make([]int, len(groups))
	for g := range count {
		count[g] = 1
	}
	best, bestTotal, bestError := slices.Clone(count), len(groups), shareError(groups, count)
	for total := len(groups); total < room.Points; {
		next := -1
		for g := range groups {
			if count[g] < most && (next < 0 || more(groups[g], count[g], groups[next], count[next])) {
				next = g
			}
		}
		if next < 0 {
			break
		}
		count[next]++
		total++
		const rounding = 1e-9
		if e := shareError(groups, count); fill || bestTotal < enoughPoints || e <= bestError+rounding {
			best, bestTotal, bestError = slices.Clone(count), total, e
		}
	}
	return best
}

// more reports whether a, with m points, is to have another before b with n.
func more(a group, m int, b group, n int) bool {
	return cmp.Or(
		cmp.Compare(b.weight/float64(2*n+1), a.weight/float64(2*m+1)),
		cmp.Compare(b.weight, a.weight),
		cmp.Compare(a.instance, b.instance),
	) < 0
}

// shareError is the part of the clients, 0 to 1, that go to another instance
// than the weights would have it.
func shareError(groups []group, count []int) float64 {
	var weights, total, sum float64
	for g := range groups {
		weights += groups[g].weight
		total += float64(count[g])
	}
	for g := range groups {
		sum += math.Abs(float64(count[g])/total - groups[g].weight/weights)
	}
	return sum / 2
}
