package selection

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// A cell is one place in one of the slots that clients ask. A client draws one of
// these slots and then one of its points, so that the share of an instance is the mean,
// over these slots, of its part of the cells of each.

const (
	// enoughPoints is how many introduction points a descriptor should have even at
	// the price of uneven shares: what tor gives an ordinary service.
	enoughPoints = 3
	// even is how far a share may be off, relative to what it should be, for more points
	// not to be given up for it.
	even = 0.03
	// uneven is how far a share may be off at the most before instances have the
	// missing part of a point in turns.
	uneven = 0.08
	// Turns is after how many refreshes sampled shares come out, about four days. After
	// a quarter of it, they are four times as far off.
	Turns = 64
)

// bounds are what cells there are.
type bounds struct {
	slots int // that clients ask
	limit int // cells in each
	each  int // cells of an instance in each
}

// roomFor returns the bounds for that many instances. Room.PerInstance does not bind
// an instance that is alone.
func roomFor(room Room, slots, instances int) bounds {
	b := bounds{slots: slots, limit: max(room.Points, 0), each: max(room.PerInstance, 1)}
	if b.each > b.limit || instances == 1 {
		b.each = b.limit
	}
	return b
}

// quota is how many cells each instance should have, which depends on the
// weights and the bounds alone: what one instance offers changes nothing for the others.
type quota struct {
	bounds
	weights []float64 // that sum to 1
	count   []int     // cells of each; the sampled ones, of this turn
	sums    []float64 // sampled: cells of this instance and those before it, over many turns
	off     float64   // how far the worst share is off, in each plan; sampled: over the turns
}

// newQuota finds the numbers of cells. It searches the total from the
// most that fit down, and takes the first with which the shares are even. If there is
// none, it takes what comes nearest to the weights, but if that is too uneven, or if
// there are more instances than cells, the numbers differ from turn to turn.
func newQuota(weights []float64, b bounds, fill bool, turn uint64) quota {
	q := quota{bounds: b, weights: normalized(weights), off: math.Inf(1)}
	if len(weights) == 0 || b.slots*b.limit == 0 {
		q.count = make([]int, len(weights))
		return q
	}
	if len(weights) <= b.slots*b.limit {
		q.search(fill)
	}
	if !fill && q.off > uneven || q.count == nil {
		if s := q.sample(turn); s.off < q.off {
			return s
		}
	}
	return q
}

// normalized returns the weights with a sum of 1.
func normalized(weights []float64) []float64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	list := make([]float64, len(weights))
	for n, w := range weights {
		list[n] = w / sum
	}
	return list
}

// totals returns the least and the most cells to search.
func (b bounds) totals(instances int) (least, most int) {
	most = min(b.slots*b.limit, instances*b.slots*b.each)
	least = b.slots * min(enoughPoints, b.limit)
	if instances > b.limit {
		least = max(least, b.slots*b.limit/2)
	}
	return max(instances, min(most, least)), most
}

func (q *quota) search(fill bool) {
	least, most := q.totals(len(q.weights))
	count := make([]int, len(q.weights))
	for n := range count {
		count[n] = 1
	}
	var seats []int // who had one more each time
	for range most - len(count) {
		next := q.next(count)
		count[next]++
		seats = append(seats, next)
	}
	for total := most; ; total-- {
		if q.nearest(count, total) < q.off {
			l := newLayout(q.bounds, len(count))
			l.deal(count)
			l.level(nil)
			l.swap(q.weights)
			if off := l.worst(q.weights, nil); off < q.off-rounding {
				q.count, q.off = slices.Clone(count), off
			}
		}
		if fill || q.off <= even || total <= least {
			return
		}
		count[seats[len(seats)-1]]--
		seats = seats[:len(seats)-1]
	}
}

const rounding = 1e-9

// next returns the instance that is furthest behind its share (the method of Webster
// and Sainte-Laguë, which for equal weights is breadth first), of those that
// may have more. There is one.
func (q *quota) next(count []int) int {
	best := -1
	for n, w := range q.weights {
		if count[n] < q.slots*q.each && (best < 0 || cmp.Or(
			cmp.Compare(w/float64(2*count[n]+1), q.weights[best]/float64(2*count[best]+1)),
			cmp.Compare(w, q.weights[best]),
		) > 0) {
			best = n
		}
	}
	return best
}

// nearest is how far the worst share is off at least, however so many cells are laid
// out in slots that differ by one cell at most.
func (q *quota) nearest(count []int, total int) (worst float64) {
	fewest, most := total/q.slots, (total+q.slots-1)/q.slots
	for n, w := range q.weights {
		if fewest > 0 {
			worst = max(worst, 1-float64(count[n])/float64(q.slots*fewest)/w)
		}
		worst = max(worst, float64(count[n])/float64(q.slots*most)/w-1)
	}
	return worst
}

// sample returns the quota of one turn, a systematic sample: each instance
// has the whole number of cells below or above its share, and over Turns as many as
// come to its share. An instance with any weight has its turn.
func (q *quota) sample(turn uint64) quota {
	s := *q
	least, most := q.totals(len(q.weights))
	total := most / q.slots * q.slots
	for _, w := range q.weights {
		total = min(total, int(float64(q.slots*q.each)/w+rounding)/q.slots*q.slots)
	}
	total = max(total, min(least, most))
	weights := slices.Clone(q.weights)
	for n, w := range weights {
		weights[n] = max(w, 1/float64(Turns*total))
	}
	s.sums, s.count = make([]float64, len(weights)), make([]int, len(weights))
	sum := 0.0
	for n, w := range normalized(weights) {
		sum += min(w*float64(total), float64(q.slots*q.each))
		s.sums[n] = sum
	}
	// Turns that follow each other are far apart.
	start := float64(bits.Reverse8(uint8(turn%Turns))>>2) / Turns
	before := 0
	for n, sum := range s.sums {
		upto := int(sum + start + rounding)
		s.count[n], before = upto-before, upto
	}
	s.off = 0
	for n, share := range s.mean() {
		s.off = max(s.off, math.Abs(share/q.weights[n]-1))
	}
	return s
}

// sampled reports whether the numbers differ from turn to turn.
func (q *quota) sampled() bool { return q.sums != nil }

// places is the number of cells, of the sampled ones in every turn at least.
func (q *quota) places() int {
	if q.sampled() {
		return int(q.sums[len(q.sums)-1] + rounding)
	}
	return sum(q.count)
}

// mean returns the share of each instance by numbers of cells, over the turns.
func (q *quota) mean() []float64 {
	shares, before := make([]float64, len(q.count)), 0
	for n, count := range q.count {
		if q.sampled() {
			upto := int(Turns*q.sums[n] + rounding)
			count, before = upto-before, upto
		}
		shares[n] = float64(count)
	}
	return normalized(shares)
}

// expected returns how many cells an instance has over many turns.
func (q *quota) expected(n int) float64 {
	switch {
	case !q.sampled():
		return float64(q.count[n])
	case n == 0:
		return q.sums[0]
	}
	return q.sums[n] - q.sums[n-1]
}
