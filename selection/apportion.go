package selection

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"onionbalancer/descriptor"
)

// enoughPoints is how many introduction points a descriptor should have even at
// the price of uneven shares: what tor gives an ordinary service.
const enoughPoints = 3

// rule is the difference between strategies.
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
	groups := inOrder(groupByInstance(shuffled(distinct(candidates), random), r), r)
	// The last ones of more instances than points have their turn when others have
	// no relay.
	first := max(0, min(len(groups), room.Points))
	markLate(groups, first)
	m := newMatching(groups)
	m.keep(groups[:first], quota)
	m.fill(room.Points, quota, m.add)
	// Late candidates for a relay may have it if it is still free.
	m.fill(room.Points, quota, m.addLate)
	return arrange(m.chosen(), random)
}

// inOrder sorts the instances by who is to have a point first: the published
// ones, then the heavy ones, then those with the better points.
func inOrder(groups []group, r rule) []group {
	slices.SortStableFunc(groups, func(a, b group) int {
		return cmp.Or(
			cmp.Compare(min(b.placed, 1), min(a.placed, 1)),
			cmp.Compare(b.weight, a.weight),
			r.prefer(a.options[0].candidate, b.options[0].candidate),
		)
	})
	return groups
}

// distinct returns a copy with one candidate for each authentication key: the
// published one, or else the one that was seen first, or else any.
func distinct(candidates []Candidate) []Candidate {
	byAge := slices.Clone(candidates)
	slices.SortStableFunc(byAge, compareAge)
	keys := make(map[[32]byte]bool, len(byAge))
	return slices.DeleteFunc(byAge, func(c Candidate) bool {
		repeated := keys[c.Point.AuthKey]
		keys[c.Point.AuthKey] = true
		return repeated
	})
}

// compareAge sorts published points first, and then by age, the oldest first.
func compareAge(a, b Candidate) int {
	return cmp.Or(comparePlaced(a, b), a.FirstSeen.Compare(b.FirstSeen))
}

// markLate marks the options that came too late for their relay: another one was
// there before, or is published and of the first instances. Those that came
// together may compete.
func markLate(groups []group, first int) {
	best := make(map[descriptor.Fingerprint]Candidate)
	right := func(g int, c Candidate) Candidate {
		if g >= first {
			c.Place = 0
		}
		return c
	}
	for g := range groups {
		for _, o := range groups[g].options {
			c := right(g, o.candidate)
			if b, known := best[o.relay]; !known || compareAge(c, b) < 0 {
				best[o.relay] = c
			}
		}
	}
	for g := range groups {
		for n := range groups[g].options {
			o := &groups[g].options[n]
			o.late = compareAge(best[o.relay], right(g, o.candidate)) < 0
		}
	}
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
// one at a time to the one furthest behind its share (the method of Webster
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

// arrange orders the chosen points for the descriptor: a published one keeps its
// place, new ones are inserted at random places. A descriptor whose
// points all came that way is in an order drawn by chance, which tells nothing
// of the instances.
func arrange(chosen []Candidate, random *rand.Rand) []Candidate {
	kept, added := make([]Candidate, 0, len(chosen)), []Candidate(nil)
	for _, c := range chosen {
		if c.Place > 0 {
			kept = append(kept, c)
		} else {
			added = append(added, c)
		}
	}
	slices.SortStableFunc(kept, func(a, b Candidate) int { return cmp.Compare(a.Place, b.Place) })
	for _, c := range added {
		kept = slices.Insert(kept, random.IntN(len(kept)+1), c)
	}
	return kept
}

// comparePlaced sorts published points first.
func comparePlaced(a, b Candidate) int {
	return cmp.Compare(min(b.Place, 1), min(a.Place, 1))
}

// shuffled shuffles s in place.
func shuffled(s []Candidate, random *rand.Rand) []Candidate {
	random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}

// group is an instance and its offer: one candidate for each relay,
// those in the published descriptor first, then the better ones.
type group struct {
	instance string
	weight   float64
	placed   int // how many of the options are published
	options  []option
}

type option struct {
	relay     descriptor.Fingerprint
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
	best := make(map[descriptor.Fingerprint]Candidate, len(g.options))
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
	owner  map[descriptor.Fingerprint]int  // relay to group
	kept   map[descriptor.Fingerprint]bool // relays that are not given to another
	count  []int                           // relays given, by group
	total  int
}

func newMatching(groups []group) *matching {
	return &matching{groups: groups, owner: make(map[descriptor.Fingerprint]int), kept: make(map[descriptor.Fingerprint]bool), count: make([]int, len(groups))}
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
	if !m.take(g, make(map[descriptor.Fingerprint]bool)) {
		return false
	}
	m.count[g]++
	m.total++
	return true
}

func (m *matching) take(g int, visited map[descriptor.Fingerprint]bool) bool {
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

// addLate gives group g a free relay, although it came late for it.
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
