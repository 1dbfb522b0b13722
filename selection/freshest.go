package selection

import "math/rand/v2"

// Freshest prefers the points that were seen first most recently, and of those
// equally young the points of the instance that published last. Tor gives up an
// introduction point within a day of making it, so the youngest have the
// longest to live, and an instance that died makes no new ones and is crowded
// out.
//
// It differs from taking all points only when there are more than the limit.
// Then it changes the descriptor whenever an instance renews a point, and
// instances that have just started get more clients than the others.
//
// Use it with many short-lived instances.
type Freshest struct{}

// Name implements Strategy.
func (Freshest) Name() string { return "freshest" }

// Select implements Strategy.
func (Freshest) Select(candidates []Candidate, limit int, random *rand.Rand) []Candidate {
	return inOrder(candidates, limit, random, func(a, b Candidate) int {
		if c := b.FirstSeen.Compare(a.FirstSeen); c != 0 {
			return c
		}
		return b.Published.Compare(a.Published)
	})
}
