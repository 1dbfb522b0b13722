package selection

import "math/rand/v2"

// Spread gives every instance the same share of the clients. It goes breadth
// first: one point of each instance, then a second of each, and so on up to
// Room.PerInstance, and stops after the last full turn, since a point more for
// some instances would make the shares uneven without making the service any
// easier to reach. With seven instances and room for 20, each has two.
//
// Only to have three points at all does it go on into a turn that is not full.
// With more instances than room, as many as there is room for have one point
// each. An instance that offers fewer points than its turn gives it gets fewer
// clients; the others' points stay what they are.
//
// Use it when the instances are alike.
type Spread struct{}

// Name implements Strategy.
func (Spread) Name() string { return "spread" }

// Select implements Strategy.
func (Spread) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	return apportion(candidates, room, random, rule{})
}
