package selection

import "math/rand/v2"

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
	for name, weight := range weights {
		if weight > 0 {
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
