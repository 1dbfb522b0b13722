package selection

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// freshFor is how old a published point may get before a younger one takes its
	// place: tor gives up an introduction point 18 to 24 hours after making it.
	freshFor = 17 * time.Hour
	// younger is how much younger that one has to be.
	younger = 3 * time.Hour
)

// choose returns the points of each slot, so many of each instance.
func (p *plan) choose(cells [][]int) [][]int {
	stale := make([]bool, len(p.points))
	if p.r.Refresh || !p.unchanged(cells) {
		stale = p.stale(cells)
	}
	kept, used := make([][]int, len(cells)), make([]int, len(p.points))
	for k := range cells {
		kept[k] = p.keep(k, cells[k], stale)
		for _, n := range kept[k] {
			used[n]++
		}
	}
	var random *rand.Rand // made when needed: most of the time, nothing changes
	var rank []int
	idle := p.idle(cells)
	list := make([][]int, len(cells))
	for k := range cells {
		chosen := kept[k]
		if want := sum(cells[k]); len(chosen) < want {
			if random == nil {
				random = rand.New(rand.NewChaCha8(p.r.Seed))
				rank = random.Perm(len(p.points))
			}
			chosen = p.arrange(k, p.match(k, cells[k], kept[k], idle, func(a, b int) int {
				return cmp.Or(
					cmp.Compare(p.points[b].Preferred, p.points[a].Preferred),
					compareBool(stale[a], stale[b]),
					compareBool(slices.Contains(p.held[k], b), slices.Contains(p.held[k], a)),
					cmp.Compare(used[a], used[b]),
					p.prefer(a, b),
					cmp.Compare(rank[a], rank[b]),
				)
			}, rank), random)
			for _, n := range chosen {
				if !slices.Contains(kept[k], n) {
					used[n]++
				}
			}
		}
		list[k] = chosen
	}
	return list
}

// idle says which instances have no cell in any of the asked slots.
func (p *plan) idle(cells [][]int) []bool {
	list := make([]bool, len(p.parties))
	for i := range list {
		list[i] = !slices.ContainsFunc(p.asked, func(k int) bool { return cells[k][i] > 0 })
	}
	return list
}

func sum(list []int) (total int) {
	for _, n := range list {
		total += n
	}
	return total
}

// compareBool sorts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// unchanged reports whether the slots can keep all that they hold and need no more.
func (p *plan) unchanged(cells [][]int) bool {
	for k := range cells {
		if sum(cells[k]) != len(p.held[k]) {
			return false
		}
	}
	return true
}

// prefer sorts the points of one instance, the better one first.
func (p *plan) prefer(a, b int) int {
	if p.parties[p.points[a].party].prefer != nil {
		return p.preferBy(a, b)
	}
	return p.points[b].FirstSeen.Compare(p.points[a].FirstSeen)
}

// preferBy is the strategy's preference among the points of one instance, if it has any.
func (p *plan) preferBy(a, b int) int {
	if by := p.parties[p.points[a].party].prefer; by != nil {
		return by(p.points[a].Candidate, p.points[b].Candidate)
	}
	return 0
}

// stale says which points are taken only for want of others of their instance, and
// are replaced at a refresh: those that are not fresh enough; or, if the strategy or the
// operator prefers some, those that are not among the best ones, as many as the
// instance may have in a slot.
func (p *plan) stale(cells [][]int) []bool {
	stale := make([]bool, len(p.points))
	for i, party := range p.parties {
		places := 0
		for _, k := range p.asked {
			places += cells[k][i]
		}
		places = max(1, min(places, p.quota.each))
		for n := party.from; n < party.to; n++ {
			better := 0
			for o := party.from; o < party.to && !stale[n]; o++ {
				if cmp.Or(cmp.Compare(p.points[n].Preferred, p.points[o].Preferred), p.preferBy(o, n)) < 0 {
					better++
				}
				stale[n] = better >= places || party.prefer == nil && p.fresher(o, n)
			}
		}
	}
	return stale
}

// fresher reports whether point n of an instance is old, and its point o enough younger
// to take its place.
func (p *plan) fresher(o, n int) bool {
	a, b := &p.points[o], &p.points[n]
	return a.Preferred >= b.Preferred && p.r.Now.Sub(b.FirstSeen) > freshFor && a.FirstSeen.Sub(b.FirstSeen) >= younger
}

// keep returns the points that slot k holds and keeps, in its order. Of an instance
// that has too many there, the better ones stay. At a refresh, stale ones go.
func (p *plan) keep(k int, cells []int, stale []bool) []int {
	over := make([]int, len(cells))
	for _, n := range p.held[k] {
		over[p.points[n].party]++
	}
	trim := false
	for i := range over {
		over[i] -= cells[i]
		trim = trim || over[i] > 0
	}
	if !trim && !p.r.Refresh {
		return p.held[k]
	}
	worst := slices.Clone(p.held[k])
	slices.SortFunc(worst, func(a, b int) int {
		return cmp.Or(
			cmp.Compare(p.points[a].party, p.points[b].party),
			cmp.Compare(p.points[a].Preferred, p.points[b].Preferred),
			compareBool(stale[b], stale[a]),
			p.prefer(b, a),
			cmp.Compare(a, b),
		)
	})
	gone := make(map[int]bool)
	for _, n := range worst {
		switch i := p.points[n].party; {
		case over[i] > 0:
			over[i]--
			gone[n] = true
		case p.r.Refresh && stale[n]:
			gone[n] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(p.held[k]), func(n int) bool { return gone[n] })
}

// arrange orders the chosen points of slot k: what it holds stays in its place, new
// ones are inserted at random places. A descriptor whose
// points all came that way is in an order drawn by chance, which tells nothing
// of the instances.
func (p *plan) arrange(k int, chosen []int, random *rand.Rand) []int {
	var list []int
	for _, n := range p.held[k] {
		if slices.Contains(chosen, n) {
			list = append(list, n)
		}
	}
	for _, n := range chosen {
		if !slices.Contains(p.held[k], n) {
			list = slices.Insert(list, random.IntN(len(list)+1), n)
		}
	}
	return list
}
