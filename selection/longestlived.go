package selection

import "math/rand/v2"

// LongestLived prefers the points that have been there longest: their relays
// and circuits have held so far. Since tor gives up an introduction point within
// a day of making it, the oldest are also the next to go.
//
// It differs from taking all points only when there are more than there is room
// for. Then the descriptor changes as seldom as it can, and of more instances
// than points, those that have just started wait for their first clients until
// older points go.
//
// Use it with many instances when relays or instances fail soon after starting
// or not at all, or when few new descriptors are wanted.
type LongestLived struct{}

// Name implements Strategy.
func (LongestLived) Name() string { return "longest-lived" }

// Select implements Strategy.
func (LongestLived) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	return apportion(candidates, room, random, rule{fill: true, compare: func(a, b Candidate) int {
		return a.FirstSeen.Compare(b.FirstSeen)
	}})
}
