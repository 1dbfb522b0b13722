package selection

import "math/rand/v2"

// Random chooses points without regard to instance or age. A point once chosen
// stays for as long as its instance offers it. An instance with more points
// gets more clients.
//
// Use it when the number of points an instance offers is itself the wish for
// its share, or to have nothing about the choice depend on the instances.
type Random struct{}

// Name implements Strategy.
func (Random) Name() string { return "random" }

// Select implements Strategy.
func (Random) Select(candidates []Candidate, limit int, random *rand.Rand) []Candidate {
	return inOrder(candidates, limit, random, func(a, b Candidate) int { return 0 })
}
