package selection

import (
	"cmp"
	"slices"
)

// matching gives the relays of one slot to instances, each relay to one. It grows by
// augmenting paths: an instance may take another's relay if that one can move to a relay
// of its own that is free. So an instance once given a relay never has fewer
// again, and whether one more can be given does not depend on which relays were
// given before, only on how many to whom.
type matching struct {
	groups []group
	owner  []int  // by relay: the group that has it, -1 if none
	kept   []bool // by relay: it is not given to another
	room   int    // for points
	total  int
}

// group is an instance and its points in a slot.
type group struct {
	options []option // the better ones first
	want    int
	count   int
}

type option struct {
	point, relay int
	late         bool // another has more of a right to the relay
}

// match chooses the points of slot k, so many of each instance: what is kept, and the
// best of the rest. Where an instance finds no relay, one of the idle ones gets its place.
// The order of the instances is that of rank.
func (p *plan) match(k int, cells, kept []int, idle []bool, better func(a, b int) int, rank []int) []int {
	m := matching{owner: make([]int, p.relays), kept: make([]bool, p.relays), room: sum(cells)}
	right := make([]int, p.relays) // the point with most right to the relay
	for r := range m.owner {
		m.owner[r], right[r] = -1, -1
	}
	var present, spare []int
	for i, n := range cells {
		switch { // idle ones that the slot keeps, in reserve, are present
		case idle[i] && !slices.ContainsFunc(kept, func(n int) bool { return p.points[n].party == i }):
			spare = append(spare, i)
			continue
		case n == 0:
			continue
		}
		present = append(present, i)
		for n := p.parties[i].from; n < p.parties[i].to; n++ {
			r := p.points[n].relay
			if right[r] < 0 || p.compareRight(k, n, right[r]) < 0 {
				right[r] = n
			}
		}
	}
	join := func(instances []int, want func(i int) int) {
		slices.SortStableFunc(instances, func(a, b int) int {
			return cmp.Or(cmp.Compare(p.parties[b].weight, p.parties[a].weight), cmp.Compare(rank[p.parties[a].from], rank[p.parties[b].from]))
		})
		for _, i := range instances {
			g := group{want: want(i)}
			for n := p.parties[i].from; n < p.parties[i].to; n++ {
				r := p.points[n].relay
				g.options = append(g.options, option{n, r, right[r] >= 0 && p.compareRight(k, right[r], n) < 0})
			}
			slices.SortFunc(g.options, func(a, b option) int { return better(a.point, b.point) })
			m.groups = append(m.groups, g)
		}
	}
	join(present, func(i int) int { return cells[i] })
	for g := range m.groups {
		for _, o := range m.groups[g].options {
			if slices.Contains(kept, o.point) {
				m.give(g, o)
				m.total++
				m.kept[o.relay] = true
			}
		}
	}
	m.fill(m.add)
	// Late ones may have a relay if it is still free.
	m.fill(m.addLate)
	if m.total < m.room && len(spare) > 0 {
		join(spare, func(int) int { return 1 })
		m.fill(m.add)
	}
	return m.chosen()
}

// compareRight sorts points by who has more right to their relay in slot k.
func (p *plan) compareRight(k, a, b int) int {
	return cmp.Or(
		compareBool(slices.Contains(p.held[k], b), slices.Contains(p.held[k], a)),
		compareRight(p.points[a].Candidate, p.points[b].Candidate),
	)
}

func (m *matching) give(g int, o option) {
	m.owner[o.relay] = g
	m.groups[g].count++
}

// fill gives relays by add, in turns so that none takes all that two want, as long as
// there is room.
func (m *matching) fill(add func(g int) bool) {
	for given := true; given; {
		given = false
		for g := range m.groups {
			if m.total < m.room && m.groups[g].count < m.groups[g].want && add(g) {
				m.total++
				given = true
			}
		}
	}
}

// add gives one relay more to group g, and reports whether that was possible.
func (m *matching) add(g int) bool { return m.take(g, make(map[int]bool)) }

func (m *matching) take(g int, visited map[int]bool) bool {
	for _, o := range m.groups[g].options {
		if m.owner[o.relay] < 0 && !o.late {
			m.give(g, o)
			return true
		}
	}
	for _, o := range m.groups[g].options {
		owner := m.owner[o.relay]
		if o.late || owner == g || visited[o.relay] || m.kept[o.relay] {
			continue
		}
		visited[o.relay] = true
		if m.take(owner, visited) {
			m.groups[owner].count--
			m.give(g, o)
			return true
		}
	}
	return false
}

// addLate gives group g a free relay, although it came late for it.
func (m *matching) addLate(g int) bool {
	for _, o := range m.groups[g].options {
		if m.owner[o.relay] < 0 {
			m.give(g, o)
			return true
		}
	}
	return false
}

// chosen returns the chosen points, by group.
func (m *matching) chosen() (list []int) {
	for g := range m.groups {
		for _, o := range m.groups[g].options {
			if m.owner[o.relay] == g {
				list = append(list, o.point)
			}
		}
	}
	return list
}
