package selection

import (
	"cmp"
	"math"
	"slices"
)

const (
	// bearable is how far a share may be off before a refresh is due.
	bearable = 0.1
	// better is how much nearer the worst share has to come for everything to be laid
	// out anew without a refresh.
	better = 0.05
)

// result is a layout with the points that came of it.
type result struct {
	points [][]int // by slot, in their order
	got    *layout // less than was laid out where relays are short
	off    float64 // how far the worst share is off
}

// result chooses the points for a layout; all of it is laid out anew, or not.
func (p *plan) result(l *layout, anew bool) result {
	cells := make([][]int, len(p.r.Slots))
	for n, k := range p.asked {
		cells[k] = l.cells[n]
	}
	for k := range cells {
		if cells[k] == nil {
			cells[k] = p.reserve(k, l, anew)
		}
	}
	r := result{points: p.choose(cells)}
	r.got = p.laidOut(r.points)
	r.off = r.got.worst(p.quota.weights, p.scarce())
	return r
}

// settled returns the points that the slots should hold, and the plan that keeps them.
//
// Without a refresh, the same request with slots that hold these points gives them
// again, whatever its seed and turn. For mending only adds, until nobody finds a relay any
// more, and whether somebody does is no matter of chance. Whether all is then laid out
// anew depends on what comes of it with a seed that is always the same. It ends, since
// each time brings the worst share nearer.
func (p *plan) settled() (*plan, result) {
	empty := slices.ContainsFunc(p.asked, func(k int) bool { return len(p.held[k]) == 0 })
	if empty || p.r.Refresh {
		p = p.with(p.refreshed(empty))
	}
	before := p
	p, mended := p.mended()
	changed := p != before
	for mended.off > bearable && p.lopsided(mended.got) && (changed || !p.wishes.AtRefresh && !p.quota.sampled()) {
		next, all := p.relaid([32]byte{})
		if !p.improves(all, mended) {
			break
		}
		if by, chance := p.relaid(p.r.Seed); p.improves(chance, mended) {
			next, all = by, chance
		}
		next.r.Seed = p.r.Seed
		p, mended = next, all
	}
	return p, mended
}

// refreshed returns the points that a refresh comes to, or a slot that has none yet.
func (p *plan) refreshed(empty bool) result {
	held := p.laidOut(p.held)
	all := p.result(p.anew(held), true)
	if empty || p.quota.sampled() {
		return all
	}
	if mended := p.result(p.mend(held), false); !p.improves(all, mended) {
		return mended
	}
	return all
}

// mended adds points where there should be more, until there is none to add: one that has
// no relay in one slot may find one in another.
func (p *plan) mended() (*plan, result) {
	for {
		r := p.result(p.mend(p.laidOut(p.held)), false)
		if p.holds(r) {
			return p, r
		}
		p = p.with(r)
	}
}

// relaid lays everything out anew with that seed.
func (p *plan) relaid(seed [32]byte) (*plan, result) {
	anew := *p
	anew.r.Seed = seed
	return anew.with(anew.result(anew.anew(anew.laidOut(anew.held)), true)).mended()
}

// laidOut counts points by slot.
func (p *plan) laidOut(points [][]int) *layout {
	l := newLayout(p.quota.bounds, len(p.parties))
	for n, k := range p.asked {
		for _, point := range points[k] {
			l.put(n, p.points[point].party, 1)
		}
	}
	return l
}

// improves reports whether it is worth it to lay everything out anew.
func (p *plan) improves(all, mended result) bool {
	fewer := cmp.Compare(mended.got.total(), all.got.total())
	nearer := func(least float64) int {
		return cmp.Compare(math.Round(max(all.off, least)/rounding), math.Round(max(mended.off, least)/rounding))
	}
	switch {
	case slices.Min(all.got.size) < min(enoughPoints, slices.Min(mended.got.size)):
		return false // not at the price of a slot with hardly any points
	case !p.r.Refresh:
		return all.off < mended.off-better
	case p.wishes.Fill:
		return cmp.Or(fewer, nearer(0)) < 0
	}
	return cmp.Or(nearer(even), fewer) < 0
}

// lopsided reports whether the numbers are others than rounding explains.
func (p *plan) lopsided(l *layout) bool {
	fullest := slices.Max(l.size)
	if fullest-slices.Min(l.size) > 1+fullest/4 {
		return true
	}
	weight, total := 0.0, 0.0
	for i, party := range p.parties {
		if !party.scarce {
			weight += p.quota.weights[i]
			total += float64(l.of(i))
		}
	}
	for i, party := range p.parties {
		if !party.scarce && math.Abs(float64(l.of(i))-total*p.quota.weights[i]/weight) >= 1 {
			return true
		}
	}
	return false
}

// anew lays everything out as the quota says, and leaves in place what it can.
func (p *plan) anew(held *layout) *layout {
	offers := p.offers()
	lay := func(held *layout) *layout {
		l := newLayout(p.quota.bounds, len(p.parties))
		l.offers = offers
		if held != nil {
			l.keep(held, p.quota.count)
		}
		l.deal(p.quota.count)
		l.level(held)
		if !p.quota.sampled() {
			l.swap(p.quota.weights)
		}
		return l
	}
	l := lay(held)
	if p.quota.sampled() || held.total() == 0 {
		return l
	}
	scarce := p.scarce()
	if off := l.worst(p.quota.weights, scarce); off > max(even, p.quota.off)+rounding {
		if moved := lay(nil); moved.worst(p.quota.weights, scarce) < off-rounding {
			return moved
		}
	}
	return l
}

// offers counts, for each of the asked slots and each instance, the relays that are
// not another's there.
func (p *plan) offers() [][]int {
	list := make([][]int, len(p.asked))
	for n, k := range p.asked {
		list[n] = p.offersIn(k)
	}
	return list
}

func (p *plan) offersIn(k int) []int {
	owner, list := make([]int, p.relays), make([]int, len(p.parties))
	for _, n := range p.held[k] {
		owner[p.points[n].relay] = p.points[n].party + 1
	}
	for _, point := range p.points {
		if o := owner[point.relay]; o == 0 || o == point.party+1 {
			list[point.party]++
		}
	}
	return list
}

// mend adds to what is held what instances are short of.
func (p *plan) mend(held *layout) *layout {
	l := held.clone()
	for i, n := range p.quota.count {
		if held.of(i) < n {
			l.offers = p.offers()
			l.deal(p.needs(l))
			break
		}
	}
	if q := &p.quota; q.sampled() && l.total() < q.places() {
		if l.offers == nil {
			l.offers = p.offers()
		}
		p.fillUp(l)
	}
	return l
}

// needs returns how many cells each instance should have at least. When others have
// died, those that are left need not have more before a refresh: nor need one that
// comes back have more than those have who could have more, if that are most.
func (p *plan) needs(held *layout) []int {
	q, need := &p.quota, make([]int, len(p.parties))
	scale, content := 0.0, 0
	for i, w := range q.weights {
		could := 0
		for k := range held.cells {
			could += held.most(k, i)
		}
		if n := held.of(i); n > 0 && n < min(could, q.count[i]) {
			scale, content = max(scale, (float64(n)-0.5)/w), content+1
		}
	}
	if 4*content < 3*len(p.parties) {
		scale = math.Inf(1)
	}
	for i, w := range q.weights {
		switch all := q.count[i] == q.slots*q.each && p.parties[i].waiting; {
		case q.sampled():
			need[i] = int(q.expected(i) + rounding)
		case all || math.IsInf(scale, 1):
			need[i] = q.count[i]
		default:
			need[i] = min(q.count[i], max(1, int(scale*w+0.5+rounding)))
		}
	}
	return need
}

// fillUp gives cells that are free to instances that do not have one more than their
// share yet.
func (p *plan) fillUp(l *layout) {
	q := &p.quota
	order := make([]int, len(p.parties))
	for i := range order {
		order[i] = i
	}
	lacks := func(i int) float64 { return q.expected(i) - float64(l.of(i)) }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lacks(b), lacks(a)) })
	for _, i := range order {
		if l.total() < q.places() && lacks(i) > rounding {
			l.add(i)
		}
	}
}

// reserve says how many points of each instance slot k should hold, which clients do
// not ask now. It may come to stand in for any of the asked slots of its replica: so it
// has as many points, first of those instances that have fewest.
func (p *plan) reserve(k int, l *layout, anew bool) []int {
	row, size := make([]int, len(p.parties)), 0
	for _, n := range p.held[k] {
		row[p.points[n].party]++
		size++
	}
	total, most, want, slots := make([]int, len(row)), make([]int, len(row)), 0, 0
	for n, asked := range p.asked {
		mine := p.r.Slots[asked].Replica == p.r.Slots[k].Replica
		if mine {
			slots++
			want += l.size[n]
		}
		for i, cells := range l.cells[n] {
			total[i] += cells
			if mine {
				most[i] += cells
			}
		}
	}
	if slots == 0 { // no slot of this replica is asked
		slots, want, most = len(p.asked), l.total(), slices.Clone(total)
	}
	for i := range most {
		most[i] = (most[i] + slots - 1) / slots
	}
	want = (2*want + slots) / (2 * slots)
	compare := func(a, b int) int { return cmp.Or(cmp.Compare(row[a], row[b]), cmp.Compare(total[a], total[b])) }
	if anew || p.r.Refresh {
		for i := range row {
			over := max(0, row[i]-most[i])
			row[i], size = row[i]-over, size-over
		}
		for size > want {
			thickest := 0
			for i := range row {
				if compare(i, thickest) > 0 {
					thickest = i
				}
			}
			row[thickest]--
			size--
		}
	}
	var offers []int
	for ; size < want; size++ {
		if offers == nil {
			offers = p.offersIn(k)
		}
		thinnest := -1
		for i := range row {
			if row[i] < min(most[i], offers[i]) && (thinnest < 0 || compare(i, thinnest) < 0) {
				thinnest = i
			}
		}
		if thinnest < 0 {
			break
		}
		row[thinnest]++
	}
	return row
}
