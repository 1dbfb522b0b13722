package selection

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// OrdinaryPoints is how many introduction points tor gives a service whose torrc does
// not say.
const OrdinaryPoints = 3

const (
	// newborn is how old a point may be that its instance has only just made: about
	// the time until it is seen.
	newborn = 10 * time.Minute
	// coeval is how much older than the youngest a point may be to do as well, when
	// none is newborn.
	coeval = time.Hour
)

// Ordinary chooses the points of a descriptor that is to look like an ordinary
// service's: a constant number of points, the same at all HSDirs, each kept until its
// end. There are r.Room.Points, or OrdinaryPoints if that is 0; fewer only if there are
// no more relays. other has the authentication keys of the service's other descriptor,
// none of which is chosen as long as there are enough others: twice as many points as a
// descriptor has.
//
// What a slot holds stays while it is a candidate, whatever its age and the weights;
// only a drained instance's goes, as if its circuit had failed. A lost point is replaced
// in the same call, and the new one has a random place in the order, as in tor's hash
// map.
//
// A new point is of an instance with none in this descriptor, if there is one, so that
// an instance's end looks like the end of a circuit. Of these come first the ones that the
// weights give more than they have in both descriptors, and of those again the ones with
// a newborn point: tor's points live for 18 hours or more. Then chance decides, with odds
// that bring the shares near to the weights over many replacements. Of the points of an
// instance, a preferred one comes first, and then the youngest.
func Ordinary(s Strategy, r Request, other [][32]byte) Assignment {
	o := newOrdinary(s, r, other)
	for len(o.chosen) < o.room {
		if best, found := o.next(); found {
			o.take(best)
		} else if !o.share() {
			break
		}
	}
	return Assignment{Slots: slices.Clone(r.Slots), Points: slices.Repeat([][]Candidate{o.chosen}, len(r.Slots)),
		Why: fmt.Sprintf("the same %d points in all slots, each kept until it ends, as an ordinary service has them", len(o.chosen))}
}

// ordinary is such a choice while it is made.
type ordinary struct {
	seed   [32]byte
	now    time.Time
	room   int
	offers []*offer
	chosen []Candidate
}

// offer is an instance with what may still be chosen of it.
type offer struct {
	points  []Candidate // the best first
	shared  []Candidate // those of the other descriptor
	weight  float64
	drained bool
	here    int     // points chosen
	claim   float64 // points that the weights give it in both descriptors, less what it has
}

func newOrdinary(s Strategy, r Request, other [][32]byte) *ordinary {
	o := &ordinary{seed: r.Seed, now: r.Now.Round(0), room: cmp.Or(r.Room.Points, OrdinaryPoints)}
	candidates := distinct(r)
	wished := &plan{s: s, r: r}
	wished.wish(candidates)
	weights := make(map[string]float64)
	for _, party := range wished.parties {
		weights[party.name] = party.weight
	}
	total := o.room
	for n, c := range candidates {
		if n == 0 || c.Instance != candidates[n-1].Instance {
			weight := weights[c.Instance]
			o.offers = append(o.offers, &offer{weight: weight, drained: c.Weight <= 0 && weight == 0})
		}
		i := o.offers[len(o.offers)-1]
		if slices.Contains(other, c.Point.AuthKey) {
			i.claim--
			total++
			i.shared = append(i.shared, c)
		} else {
			i.points = append(i.points, c)
		}
	}
	for _, i := range o.offers {
		slices.SortStableFunc(i.points, func(a, b Candidate) int {
			return cmp.Or(comparePlaced(a, b), cmp.Compare(a.Place, b.Place), cmp.Compare(b.Preferred, a.Preferred), b.FirstSeen.Compare(a.FirstSeen))
		})
	}
	o.apportion(float64(total))
	return o
}

// apportion adds to the instances' claims their parts of a total by weight, of which
// none has more than one point in each descriptor while there are enough of them.
func (o *ordinary) apportion(total float64) {
	most, sum := total, 0.0
	if len(o.offers) >= o.room {
		most = total / float64(o.room)
	}
	for _, i := range o.offers {
		sum += i.weight
	}
	// The heaviest first: what they may not have goes to the others.
	slices.SortStableFunc(o.offers, func(a, b *offer) int { return cmp.Compare(b.weight, a.weight) })
	for n, i := range o.offers {
		part := 1 / float64(len(o.offers)-n)
		if sum > 0 {
			part = i.weight / sum
		}
		claim := min(most, total*part)
		i.claim += claim
		total, sum = total-claim, sum-i.weight
	}
}

// next returns the instance whose first point is to be chosen, if there is any.
func (o *ordinary) next() (best *offer, found bool) {
	left := slices.DeleteFunc(slices.Clone(o.offers), func(i *offer) bool { return len(i.points) == 0 })
	if len(left) == 0 {
		return nil, false
	}
	left = first(left, func(i *offer) bool { return !i.drained })
	if kept := slices.DeleteFunc(slices.Clone(left), func(i *offer) bool { return i.points[0].Place == 0 }); len(kept) > 0 {
		return slices.MinFunc(kept, func(a, b *offer) int {
			return cmp.Or(cmp.Compare(a.here, b.here), cmp.Compare(a.points[0].Place, b.points[0].Place))
		}), true
	}
	left = first(left, func(i *offer) bool { return i.here == 0 })
	left = first(left, func(i *offer) bool { return i.claim > 0 })
	youngest := slices.MaxFunc(left, func(a, b *offer) int { return a.born().Compare(b.born()) }).born()
	since := o.now.Add(-newborn)
	if youngest.Before(since) {
		since = youngest.Add(-coeval)
	}
	left = first(left, func(i *offer) bool { return !i.born().Before(since) })
	return slices.MinFunc(left, func(a, b *offer) int { return cmp.Compare(o.wait(a), o.wait(b)) }), true
}

// share offers the points of the other descriptor too, and reports whether there are any:
// a service that cannot be reached looks less ordinary than one whose descriptors have
// points in common.
func (o *ordinary) share() (any bool) {
	for _, i := range o.offers {
		i.points, i.shared = i.shared, nil
		any = any || len(i.points) > 0
	}
	return any
}

// first returns the instances that are so, or all if none is.
func first(all []*offer, so func(*offer) bool) []*offer {
	if !slices.ContainsFunc(all, so) {
		return all
	}
	return slices.DeleteFunc(all, func(i *offer) bool { return !so(i) })
}

// born is when the point was first seen that would be chosen of the instance.
func (i *offer) born() time.Time { return i.points[0].FirstSeen }

// wait draws when an instance's turn comes: the shorter the more it claims. The
// instance with a claim of p, of a fraction of a point, is chosen with the odds of
// p to 1-p: when each lost point is replaced that way, the chance to find an
// instance in the descriptor stays at about p. The draw follows from the seed and the
// point, so each point's is another, and none depends on who else offers.
func (o *ordinary) wait(i *offer) float64 {
	odds := i.claim / max(1-i.claim, 1e-6)
	if i.claim <= 0 {
		odds = 1e-6 / (1 - i.claim)
	}
	turn, _ := o.draw(i.points[0])
	const bits = 53 // of a float's mantissa
	uniform := (float64(turn>>(64-bits)) + 0.5) / (1 << bits)
	return -math.Log(uniform) / odds
}

// draw returns two numbers that the seed and the point decide.
func (o *ordinary) draw(c Candidate) (turn, place uint64) {
	sum := sha256.Sum256(append(o.seed[:], c.Point.AuthKey[:]...))
	return binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
}

// take chooses the first point of an instance, and drops all others on its relay.
// What is published keeps its order.
func (o *ordinary) take(i *offer) {
	c := i.points[0]
	i.here++
	i.claim--
	_, place := o.draw(c)
	at := int(place % uint64(len(o.chosen)+1))
	if c.Place > 0 {
		at = len(o.chosen)
		for at > 0 && o.chosen[at-1].Place > c.Place {
			at--
		}
	}
	o.chosen = slices.Insert(o.chosen, at, c)
	taken := func(p Candidate) bool { return p.Point.Relay() == c.Point.Relay() }
	for _, other := range o.offers {
		other.points, other.shared = slices.DeleteFunc(other.points, taken), slices.DeleteFunc(other.shared, taken)
	}
}
