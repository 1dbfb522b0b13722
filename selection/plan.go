package selection

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"onionbalancer/descriptor"
)

// plan is one assignment in the making.
type plan struct {
	s       Strategy
	r       Request
	asked   []int // the slots that clients ask
	parties []party
	points  []point // by party
	relays  int     // how many different ones the points are on
	held    [][]int // by slot: the points that it has and may keep, in its order
	quota   quota
	wishes  Wishes
}

// party is an instance that is to have points.
type party struct {
	name    string
	weight  float64
	prefer  func(a, b Candidate) int
	from    int // its points are plan.points[from:to]
	to      int
	scarce  bool // it offers fewer points than there is room for
	waiting bool // it has a point that no slot has
}

// point is a candidate that may be chosen: one for each relay of an instance.
type point struct {
	Candidate
	party int
	relay int
}

// newPlan prepares the choice that s makes for r.
func newPlan(s Strategy, r Request) *plan {
	p := &plan{s: s, r: r}
	for n, slot := range r.Slots {
		if slot.Asked {
			p.asked = append(p.asked, n)
		}
	}
	if len(p.asked) == 0 {
		for n := range r.Slots {
			p.asked = append(p.asked, n)
		}
	}
	candidates := distinct(r)
	p.wish(candidates)
	p.gather(candidates)
	weights := make([]float64, len(p.parties))
	for n, party := range p.parties {
		weights[n] = party.weight
	}
	b := roomFor(r.Room, len(p.asked), len(weights))
	p.quota = newQuota(weights, b, p.wishes.Fill, r.Turn)
	for n := range p.parties {
		p.parties[n].scarce = p.parties[n].to-p.parties[n].from < b.each
	}
	p.hold()
	return p
}

// distinct returns a copy of the candidates in an order that follows from nothing
// but themselves, with one for each authentication key, the one that was seen first,
// and with their places.
func distinct(r Request) []Candidate {
	sorted, places := slices.Clone(r.Candidates), placesIn(r.Slots)
	for n := range sorted {
		c := &sorted[n] // two managers have no monotonic clock in common
		c.FirstSeen, c.Published, c.Place = c.FirstSeen.Round(0), c.Published.Round(0), places[c.Point.AuthKey]
	}
	slices.SortStableFunc(sorted, compareIdentity)
	byKey := make(map[[32]byte]int, len(sorted))
	for n, c := range sorted {
		if first, known := byKey[c.Point.AuthKey]; !known || c.FirstSeen.Before(sorted[first].FirstSeen) {
			byKey[c.Point.AuthKey] = n
		}
	}
	list := make([]Candidate, 0, len(byKey))
	for n, c := range sorted {
		if byKey[c.Point.AuthKey] == n {
			list = append(list, c)
		}
	}
	return list
}

// placesIn returns where the points stand first that the slots hold, counted from 1.
func placesIn(slots []Slot) map[[32]byte]int {
	places, next := make(map[[32]byte]int), 0
	for _, slot := range slots {
		for _, key := range slot.Holds {
			if next++; places[key] == 0 {
				places[key] = next
			}
		}
	}
	return places
}

// lightest is the least weight that is told from none, relative to the heaviest.
const lightest = 1e-6

// wish asks the strategy, and notes the instances that are to have anything.
func (p *plan) wish(candidates []Candidate) {
	var standings []Standing
	from := 0
	for n, c := range candidates {
		if n+1 == len(candidates) || candidates[n+1].Instance != c.Instance {
			standings = append(standings, Standing{c.Instance, c.Weight, c.Load, candidates[from : n+1 : n+1]})
			from = n + 1
		}
	}
	if len(standings) == 0 {
		return
	}
	p.wishes = p.s.Wish(standings, p.r.Now)
	list := p.wishes.Instances[:min(len(p.wishes.Instances), len(standings))]
	weighs := func(w Wish) bool { return w.Weight > 0 && !math.IsInf(w.Weight, 1) }
	none, heaviest := !slices.ContainsFunc(list, weighs), 0.0
	for _, w := range list {
		if weighs(w) {
			heaviest = max(heaviest, w.Weight)
		}
	}
	for n, w := range list {
		if none {
			w.Weight, heaviest = 1, 1
		}
		if none || weighs(w) {
			w.Weight = max(w.Weight/heaviest, lightest)
			p.parties = append(p.parties, party{name: standings[n].Instance, weight: w.Weight, prefer: w.Prefer})
		}
	}
}

// gather sorts the candidates of the parties: of each, one for each relay, the one
// with most right to it.
func (p *plan) gather(candidates []Candidate) {
	relays := make(map[descriptor.Fingerprint]int)
	var latest []int // by relay: the point that was added last
	at := 0
	p.points = make([]point, 0, len(candidates))
	for n := range p.parties {
		party := &p.parties[n]
		for candidates[at].Instance != party.name {
			at++
		}
		party.from = len(p.points)
		for ; at < len(candidates) && candidates[at].Instance == party.name; at++ {
			c := candidates[at]
			relay, known := relays[c.Point.Relay()]
			if !known {
				relay = len(latest)
				relays[c.Point.Relay()], latest = relay, append(latest, -1)
			}
			if l := latest[relay]; l >= party.from {
				if compareRight(c, p.points[l].Candidate) < 0 {
					p.points[l].Candidate = c
				}
				continue
			}
			latest[relay] = len(p.points)
			p.points = append(p.points, point{c, n, relay})
		}
		party.to = len(p.points)
	}
	p.relays = len(latest)
}

// compareRight sorts points by who has more right to a relay: the published ones
// first, and then who was seen first. So nothing that is offered later takes it.
func compareRight(a, b Candidate) int {
	return cmp.Or(comparePlaced(a, b), a.FirstSeen.Compare(b.FirstSeen))
}

// comparePlaced sorts published points first.
func comparePlaced(a, b Candidate) int {
	return cmp.Compare(min(b.Place, 1), min(a.Place, 1))
}

// hold finds the points that each slot has and may keep.
func (p *plan) hold() {
	byKey := make(map[[32]byte]int, len(p.points))
	for n, point := range p.points {
		byKey[point.Point.AuthKey] = n
		if point.Place == 0 {
			p.parties[point.party].waiting = true
		}
	}
	taken, count := make([]int, p.relays), make([]int, len(p.parties))
	p.held = make([][]int, len(p.r.Slots))
	for k, slot := range p.r.Slots {
		clear(count)
		for _, key := range slot.Holds {
			n, known := byKey[key]
			if !known || taken[p.points[n].relay] == k+1 || count[p.points[n].party] == p.quota.each || len(p.held[k]) == p.quota.limit {
				continue
			}
			taken[p.points[n].relay] = k + 1
			count[p.points[n].party]++
			p.held[k] = append(p.held[k], n)
		}
	}
}

// with returns the plan for slots that hold the points of r, when no refresh is due.
func (p *plan) with(r result) *plan {
	if p.holds(r) {
		p.r.Refresh = false
		return p
	}
	next := p.r
	next.Refresh, next.Slots = false, slices.Clone(p.r.Slots)
	for k, points := range r.points {
		holds := make([][32]byte, len(points))
		for i, n := range points {
			holds[i] = p.points[n].Point.AuthKey
		}
		next.Slots[k].Holds = holds
	}
	return newPlan(p.s, next)
}

// holds reports whether the slots hold the points of r.
func (p *plan) holds(r result) bool {
	for k, points := range r.points {
		if !slices.EqualFunc(points, p.r.Slots[k].Holds, func(n int, key [32]byte) bool { return p.points[n].Point.AuthKey == key }) {
			return false
		}
	}
	return true
}

// assignment returns what comes of the plan with that result.
func (p *plan) assignment(best result) Assignment {
	a := Assignment{Points: make([][]Candidate, len(best.points)), Sampled: p.quota.sampled(), Why: p.why(best)}
	for k, list := range best.points {
		a.Points[k] = make([]Candidate, len(list))
		for i, n := range list {
			a.Points[k][i] = p.points[n].Candidate
		}
	}
	if a.Sampled {
		a.mean = make(map[string]float64, len(p.parties))
		for n, share := range p.quota.mean() {
			a.mean[p.parties[n].name] = share
		}
	}
	return a
}

// why explains the numbers of points.
func (p *plan) why(best result) string {
	q, l, off, when := &p.quota, best.got, best.off, ""
	if q.sampled() {
		off, when = q.off, fmt.Sprintf(" over %d refreshes: they take turns", Turns)
	}
	text := fmt.Sprintf("%d instances on %d places in %d slots, the worst share %.1f %% off%s", len(p.parties), l.total(), l.slots, 100*off, when)
	lacking := 0
	for i, party := range p.parties {
		if len(p.parties) > 1 && party.scarce && l.of(i) < q.count[i] {
			lacking++
		}
	}
	if lacking > 0 {
		return text + fmt.Sprintf("; %d of them offer too few introduction points", lacking)
	}
	if want := q.places(); len(p.parties) > 1 && l.total() < want {
		text += fmt.Sprintf("; the next refresh makes it %d places", want)
	}
	return text
}

func (p *plan) scarce() []bool {
	list := make([]bool, len(p.parties))
	for n, party := range p.parties {
		list[n] = party.scarce
	}
	return list
}

// compareIdentity puts candidates into an order that follows from nothing but
// themselves.
func compareIdentity(a, b Candidate) int {
	if n := cmp.Or(cmp.Compare(a.Instance, b.Instance), bytes.Compare(a.Point.AuthKey[:], b.Point.AuthKey[:])); n != 0 {
		return n
	}
	// A point offered twice, in some other way.
	return cmp.Or(
		cmp.Compare(a.Point.Relay().String(), b.Point.Relay().String()),
		bytes.Compare(a.Point.EncKey[:], b.Point.EncKey[:]),
		bytes.Compare(a.Point.OnionKey[:], b.Point.OnionKey[:]),
		slices.CompareFunc(a.Point.LinkSpecifiers, b.Point.LinkSpecifiers, func(a, b descriptor.LinkSpecifier) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), bytes.Compare(a.Data, b.Data))
		}),
		a.Point.Expires.Compare(b.Point.Expires),
		a.FirstSeen.Compare(b.FirstSeen),
		a.Published.Compare(b.Published),
		cmp.Compare(a.Preferred, b.Preferred),
		cmp.Compare(a.Weight, b.Weight),
	)
}
