package selection

import "math/rand/v2"

// Random chooses points without regard to age, as many as there is room for,
// though some instances then have one more than others. A point once chosen
// stays for as long as its instance offers it.
//
// Use it when as many points as possible matter more than even shares.
type Random struct{}

// Name implements Strategy.
func (Random) Name() string { return "random" }

// Select implements Strategy.
func (Random) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	return apportion(candidates, room, random, rule{fill: true})
}
