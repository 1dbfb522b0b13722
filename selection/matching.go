package selection

import (
	"cmp"
	"slices"
)

// group is an instance and what it has to offer: one candidate for each relay,
// those in the published descriptor first, then the better ones.
type group struct {
	instance string
	weight   float64
	placed   int // how many of the options are published
	options  []option
}

type option struct {
	relay     string
	candidate Candidate
	late      bool // another has more of a right to the relay
}

// groupByInstance sorts candidates by instance. The order of instances, and of
// options that are equally good, is that of their first candidate.
func groupByInstance(candidates []Candidate, r rule) []group {
	var groups []group
	index := make(map[string]int)
	for _, c := range candidates {
		g, known := index[c.Instance]
		if !known {
			g = len(groups)
			index[c.Instance] = g
			groups = append(groups, group{instance: c.Instance, weight: r.weigh(c)})
		}
		groups[g].options = append(groups[g].options, option{relay: c.Point.Relay(), candidate: c})
	}
	for i := range groups {
		groups[i].tidy(r)
	}
	return groups
}

// tidy leaves one option for each relay, the one with most right to it, and
// orders them.
func (g *group) tidy(r rule) {
	best := make(map[string]Candidate, len(g.options))
	for _, o := range g.options {
		if b, known := best[o.relay]; !known || compareAge(o.candidate, b) < 0 {
			best[o.relay] = o.candidate
		}
	}
	g.options = slices.DeleteFunc(g.options, func(o option) bool { return best[o.relay] != o.candidate })
	slices.SortStableFunc(g.options, func(a, b option) int {
		return cmp.Or(
			comparePlaced(a.candidate, b.candidate),
			cmp.Compare(a.candidate.Place, b.candidate.Place),
			r.prefer(a.candidate, b.candidate),
		)
	})
	for _, o := range g.options {
		g.placed += min(o.candidate.Place, 1)
	}
}

// matching gives relays to instances, each relay to one. It grows by augmenting
// paths: an instance may take another's relay if that one can move to a relay
// of its own that is free. So an instance once given a relay never has fewer
// again, and whether one more can be given does not depend on which relays were
// given before, only on how many to whom.
type matching struct {
	groups []group
	owner  map[string]int  // relay to group
	kept   map[string]bool // relays that are not given to another
	count  []int           // relays given, by group
	total  int
}

func newMatching(groups []group) *matching {
	return &matching{groups: groups, owner: make(map[string]int), kept: make(map[string]bool), count: make([]int, len(groups))}
}

// fill gives relays by add, in turns so that none takes all that two want, as
// long as there is room in all and for each group.
func (m *matching) fill(room int, quota map[string]int, add func(g int) bool) {
	for given := true; given; {
		given = false
		for g := range m.groups {
			given = m.total < room && m.count[g] < quota[m.groups[g].instance] && add(g) || given
		}
	}
}

// add gives one relay more to group g, and reports whether that was possible.
func (m *matching) add(g int) bool {
	if !m.take(g, make(map[string]bool)) {
		return false
	}
	m.count[g]++
	m.total++
	return true
}

func (m *matching) take(g int, visited map[string]bool) bool {
	for _, o := range m.groups[g].options {
		if _, taken := m.owner[o.relay]; !taken && !o.late {
			m.owner[o.relay] = g
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
			m.owner[o.relay] = g
			return true
		}
	}
	return false
}

// addLate gives group g a relay that nobody has, though it came late for it.
func (m *matching) addLate(g int) bool {
	for _, o := range m.groups[g].options {
		if _, taken := m.owner[o.relay]; !taken {
			m.owner[o.relay] = g
			m.count[g]++
			m.total++
			return true
		}
	}
	return false
}

// keep gives the first groups the relays of their published options, up to their
// quotas, for good.
func (m *matching) keep(first []group, quota map[string]int) {
	for g := range first {
		for _, o := range first[g].options[:first[g].placed] {
			if _, taken := m.owner[o.relay]; !taken && m.count[g] < quota[first[g].instance] {
				m.owner[o.relay], m.kept[o.relay] = g, true
				m.count[g]++
				m.total++
			}
		}
	}
}

// chosen returns the candidates on the relays given, in the order of groups.
func (m *matching) chosen() []Candidate {
	out := make([]Candidate, 0, m.total)
	for g := range m.groups {
		for _, o := range m.groups[g].options {
			if owner, taken := m.owner[o.relay]; taken && owner == g {
				out = append(out, o.candidate)
			}
		}
	}
	return out
}
