package selection

import "math/rand/v2"

// Spread gives every instance the same share of the clients. It goes breadth
// first: one point of each instance, then a second of each, and so on, and
// stops after the last full turn, since a point more for some instances would
// make the shares uneven without making the service any easier to reach. With
// seven instances of three points and a limit of 20, each has two.
//
// Only to have three points at all does it go on into a turn that is not full;
// then no instance has two more than another. With more instances than the
// limit, as many as the limit have one point each. An instance that shares all
// its relays with others may be left out, as clients could not reach it there.
//
// Use it when the instances are alike.
type Spread struct{}

// Name implements Strategy.
func (Spread) Name() string { return "spread" }

// Select implements Strategy.
func (Spread) Select(candidates []Candidate, limit int, random *rand.Rand) []Candidate {
	return apportion(candidates, limit, random, func(Candidate) float64 { return 1 })
}
