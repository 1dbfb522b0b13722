package selection

import (
	"cmp"
	"math"
	"slices"
)

// layout says how many points of which instance the slots hold that clients ask.
type layout struct {
	bounds
	cells [][]int // by slot and instance
	size  []int   // of each slot
	// offers are how many points an instance can have in a slot; nil if all have
	// enough.
	offers [][]int
}

func newLayout(b bounds, instances int) *layout {
	l := &layout{bounds: b, cells: make([][]int, b.slots), size: make([]int, b.slots)}
	for k := range l.cells {
		l.cells[k] = make([]int, instances)
	}
	return l
}

func (l *layout) clone() *layout {
	c := *l
	c.size, c.cells = slices.Clone(l.size), make([][]int, len(l.cells))
	for k := range l.cells {
		c.cells[k] = slices.Clone(l.cells[k])
	}
	return &c
}

// most returns how many cells instance i can have in slot k.
func (l *layout) most(k, i int) int {
	if l.offers == nil {
		return l.each
	}
	return min(l.each, l.offers[k][i])
}

// put adds n cells of instance i to slot k.
func (l *layout) put(k, i, n int) {
	l.cells[k][i] += n
	l.size[k] += n
}

// of counts the cells of instance i.
func (l *layout) of(i int) (sum int) {
	for k := range l.cells {
		sum += l.cells[k][i]
	}
	return sum
}

func (l *layout) total() (sum int) {
	for _, n := range l.size {
		sum += n
	}
	return sum
}

// keep takes over what another layout has, up to so many cells of each
// instance: those first that are the only ones of their instance in their slot.
func (l *layout) keep(held *layout, count []int) {
	for i, left := range count {
		for depth := 1; depth <= l.each && left > 0; depth++ {
			for k := range l.cells {
				if held.cells[k][i] >= depth && left > 0 {
					l.put(k, i, 1)
					left--
				}
			}
		}
	}
}

// deal gives each instance as many cells as it is short of, the heavy ones first.
func (l *layout) deal(count []int) {
	for _, i := range heavyFirst(count) {
		for need := count[i] - l.of(i); need > 0 && l.add(i); need-- {
		}
	}
}

func heavyFirst(count []int) []int {
	order := make([]int, len(count))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(count[b], count[a]) })
	return order
}

// add gives instance i a cell, in the slot where it has fewest, of these in the
// emptiest. It reports whether there is room.
func (l *layout) add(i int) bool {
	best := -1
	for k := range l.cells {
		if l.size[k] < l.limit && l.cells[k][i] < l.most(k, i) && (best < 0 || cmp.Or(
			cmp.Compare(l.cells[k][i], l.cells[best][i]), cmp.Compare(l.size[k], l.size[best])) < 0) {
			best = k
		}
	}
	if best >= 0 {
		l.put(best, i, 1)
	}
	return best >= 0
}

// level moves cells from the fullest to the emptiest slot until none has more
// than one more than another, first those that are not held where they are. No
// instance has then more in one slot and less in another than it had.
func (l *layout) level(held *layout) {
	for {
		a, b := 0, 0
		for k, n := range l.size {
			if n > l.size[a] {
				a = k
			}
			if n < l.size[b] {
				b = k
			}
		}
		if l.size[a]-l.size[b] <= 1 {
			return
		}
		best, bestCost := -1, 0
		for i, n := range l.cells[a] {
			gap := l.cells[b][i] - n
			if gap >= 0 || l.cells[b][i] >= l.most(b, i) {
				continue
			}
			cost := 4 * gap
			if held != nil && n <= held.cells[a][i] {
				cost += 2
			}
			if held != nil && l.cells[b][i] >= held.cells[b][i] {
				cost++
			}
			if best < 0 || cost < bestCost {
				best, bestCost = i, cost
			}
		}
		if best < 0 {
			return
		}
		l.put(a, best, -1)
		l.put(b, best, 1)
	}
}

// shares returns the part of the clients that each instance can expect.
func (l *layout) shares() []float64 {
	shares := make([]float64, len(l.cells[0]))
	for k, row := range l.cells {
		for i, n := range row {
			if n > 0 {
				shares[i] += float64(n) / float64(l.size[k]*l.slots)
			}
		}
	}
	return shares
}

// worst returns how far the worst share is off, relative to what it should be. An
// instance that is short of points and has less than its share does not count, and
// the others share what it leaves.
func (l *layout) worst(weights []float64, short []bool) (worst float64) {
	shares := l.shares()
	weight, rest := 1.0, 1.0
	lacks := func(i int) bool { return short != nil && short[i] && shares[i] < weights[i] }
	for i := range shares {
		if lacks(i) {
			weight, rest = weight-weights[i], rest-shares[i]
		}
	}
	for i, share := range shares {
		if !lacks(i) {
			worst = max(worst, math.Abs(share/(weights[i]/weight*rest)-1))
		}
	}
	return worst
}

// swaps bounds the search of swap.
const swaps = 400

// swap exchanges cells of two instances between slots of different size while the
// worst error of a share gets smaller.
func (l *layout) swap(weights []float64) {
	if slices.Max(l.size) == slices.Min(l.size) {
		return
	}
	for range swaps {
		off := l.shares()
		order := make([]int, len(off))
		for i := range off {
			off[i], order[i] = off[i]/weights[i]-1, i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(off[a], off[b]) })
		low, high := order[0], order[len(order)-1]
		if l.exchange(high, order[:len(order)-1], off, weights) {
			continue
		}
		slices.Reverse(order)
		if !l.exchange(low, order[:len(order)-1], off, weights) {
			return
		}
	}
}

// exchange brings the share of instance i nearer to what it should be, with one of
// the others, and reports whether it did.
func (l *layout) exchange(i int, others []int, off, weights []float64) bool {
	for _, j := range others {
		for a := range l.cells {
			for b := range l.cells {
				if l.size[a] == l.size[b] || !l.exchangeable(a, b, i, j) {
					continue
				}
				change := (1/float64(l.size[b]) - 1/float64(l.size[a])) / float64(l.slots)
				after := max(math.Abs(off[i]+change/weights[i]), math.Abs(off[j]-change/weights[j]))
				if after < max(math.Abs(off[i]), math.Abs(off[j]))-rounding {
					l.cells[a][i]--
					l.cells[b][i]++
					l.cells[b][j]--
					l.cells[a][j]++
					return true
				}
			}
		}
	}
	return false
}

// exchangeable reports whether a cell of i in slot a can change places with one of
// j in slot b, and none of the two is less evenly spread over the slots afterwards.
func (l *layout) exchangeable(a, b, i, j int) bool {
	return l.cells[b][i] < min(l.most(b, i), l.cells[a][i]) && l.cells[a][j] < min(l.most(a, j), l.cells[b][j])
}
