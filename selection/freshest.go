package selection

import (
	"cmp"
	"math/rand/v2"
)

// Freshest prefers the points that were seen first most recently, and of those
// equally young the points of the instance that published last. Tor gives up an
// introduction point within a day of making it, so the youngest have the
// longest to live. What is published stays for as long as it is offered.
//
// It differs from taking all points only when there are more than there is room
// for.
//
// Use it with many short-lived instances.
type Freshest struct{}

// Name implements Strategy.
func (Freshest) Name() string { return "freshest" }

// Select implements Strategy.
func (Freshest) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	return apportion(candidates, room, random, rule{fill: true, compare: func(a, b Candidate) int {
		return cmp.Or(b.FirstSeen.Compare(a.FirstSeen), b.Published.Compare(a.Published))
	}})
}
