package selection

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Default is the strategy of a service that names none.
const Default = "spread"

// strategies is the registry, in the order in which help texts list it.
var strategies = []Strategy{
	Spread{},
	Weighted{},
	Freshest{},
	LongestLived{},
	Random{},
}

// Lookup returns the strategy of that name; the empty name stands for Default.
func Lookup(name string) (Strategy, error) {
	if name == "" {
		name = Default
	}
	for _, s := range strategies {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("unknown strategy %q, want one of %s", name, strings.Join(Names(), ", "))
}

// Weighs reports whether the strategy of that name heeds weights.
func Weighs(name string) bool {
	return name == "" || name == Spread{}.Name() || name == Weighted{}.Name()
}

// Names lists the strategies, the default first.
func Names() []string {
	names := make([]string, len(strategies))
	for i, s := range strategies {
		names[i] = s.Name()
	}
	return names
}

// Spread gives every instance the same share of the clients, unless their weights
// differ: then it does as Weighted does. It goes breadth
// first: one point of each instance, then a second of each, and so on up to
// Room.PerInstance, and stops after the last full turn, since a point more for
// some instances would make the shares uneven without making the service any
// easier to reach. With seven instances and room for 20, each has two.
//
// Only to have three points at all does it go on into a turn that is not full.
// With more instances than room, as many as there is room for have one point
// each. An instance that offers fewer points than its turn gives it gets fewer
// clients; the others' points do not change.
//
// Use it when the instances are alike. Weights are then for what an operator says at
// run time.
type Spread struct{}

// Name implements Strategy.
func (Spread) Name() string { return "spread" }

// Select implements Strategy.
func (Spread) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	if slices.ContainsFunc(candidates, func(c Candidate) bool { return c.Weight != candidates[0].Weight }) {
		return Weighted{}.Select(candidates, room, random)
	}
	return apportion(candidates, room, random, rule{})
}

// Weighted gives each instance a share of the clients in proportion to its
// weight, as near as whole introduction points allow: of weights 3 and 1 and
// three points each, 3 and 1 are chosen. Every instance with a weight gets at
// least one point while the limit allows. An instance of weight 0 is drained:
// it gets no new clients, as long as some other instance has a weight.
//
// The reach of the weights is limited by the number of points that an instance
// may have (Room.PerInstance) and has (HiddenServiceNumIntroductionPoints in its
// torrc, 3 unless set): give more of them to the heavy instances.
//
// Use it when the instances differ in capacity, or to drain one.
type Weighted struct{}

// Name implements Strategy.
func (Weighted) Name() string { return "weighted" }

// Select implements Strategy.
func (Weighted) Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate {
	weighted := make([]Candidate, 0, len(candidates))
	for _, c := range candidates {
		if c.Weight > 0 {
			weighted = append(weighted, c)
		}
	}
	if len(weighted) == 0 {
		return Spread{}.Select(candidates, room, random)
	}
	return apportion(weighted, room, random, rule{weight: func(c Candidate) float64 { return c.Weight }})
}

// Reach returns the shares that instances of these weights come to when each
// offers all the points that there is room for, by name.
func (Weighted) Reach(weights map[string]float64, room Room) map[string]float64 {
	var candidates []Candidate
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if weight := weights[name]; weight > 0 {
			candidates = append(candidates, Candidate{Instance: name, Weight: weight})
		}
	}
	shares, total := make(map[string]float64), 0.0
	counts := quotas(candidates, room, rule{weight: func(c Candidate) float64 { return c.Weight }})
	for _, n := range counts {
		total += float64(n)
	}
	for name, n := range counts {
		shares[name] = float64(n) / total
	}
	return shares
}

// Freshest prefers the points that were seen first most recently, and of those
// equally young the points of the instance that published last. Tor gives up an
// introduction point within a day of making it, so the youngest have the
// longest to live. Published points stay for as long as they are offered.
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
