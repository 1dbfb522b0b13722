package selection

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// enoughPoints is how many introduction points a descriptor should have even at
// the price of uneven shares: what tor gives an ordinary service.
const enoughPoints = 3

// apportion chooses points so that the expected shares of the instances come as
// near as they can to their weights; of equally good choices, the one with most
// points.
func apportion(candidates []Candidate, limit int, random *rand.Rand, weight func(Candidate) float64) []Candidate {
	groups := represented(groupByInstance(shuffled(distinct(candidates), random), weight), limit)
	want := shareOut(groups, limit)
	m := newMatching(groups)
	m.keep(want)
	for g := range groups {
		for m.count[g] < want[g] && m.add(g) {
			continue
		}
	}
	return arrange(m.chosen(), random)
}

// represented returns the instances that get a point at all: as many as the
// relays and the limit allow, the heavy ones first, then the published ones.
func represented(groups []group, limit int) []group {
	slices.SortStableFunc(groups, func(a, b group) int {
		if c := cmp.Compare(b.weight, a.weight); c != 0 {
			return c
		}
		return cmp.Compare(min(b.placed, 1), min(a.placed, 1))
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

// shareOut says how many points each group gets. It gives one to each, then one
// at a time to whoever is furthest behind its share (the method of Webster and
// Sainte-Laguë, which for equal weights is breadth first), and returns where
// the shares came nearest to the weights. Between equals, a group with fewer
// than are published goes first, so that counts do not change without need.
func shareOut(groups []group, limit int) []int {
	m := newMatching(groups)
	for g := range groups {
		m.add(g)
	}
	best, bestTotal, bestError := slices.Clone(m.count), m.total, shareError(m)
	open := make([]int, len(groups))
	for g := range open {
		open[g] = g
	}
	for m.total < limit && len(open) > 0 {
		next := slices.MinFunc(open, func(a, b int) int {
			return cmp.Or(
				cmp.Compare(urgency(m, b), urgency(m, a)),
				cmp.Compare(groups[b].weight, groups[a].weight),
				cmp.Compare(lacks(m, b), lacks(m, a)),
				cmp.Compare(groups[a].instance, groups[b].instance),
			)
		})
		if !m.add(next) {
			open = slices.DeleteFunc(open, func(g int) bool { return g == next })
			continue
		}
		const rounding = 1e-9
		if e := shareError(m); bestTotal < enoughPoints || e <= bestError+rounding {
			best, bestTotal, bestError = slices.Clone(m.count), m.total, e
		}
	}
	return best
}

func urgency(m *matching, g int) float64 {
	return m.groups[g].weight / float64(2*m.count[g]+1)
}

func lacks(m *matching, g int) int {
	if m.count[g] < m.groups[g].placed {
		return 1
	}
	return 0
}

// shareError is the part of the clients, 0 to 1, that go to another instance
// than the weights would have it.
func shareError(m *matching) float64 {
	var weights, sum float64
	for g := range m.groups {
		weights += m.groups[g].weight
	}
	for g := range m.groups {
		sum += math.Abs(float64(m.count[g])/float64(m.total) - m.groups[g].weight/weights)
	}
	return sum / 2
}
