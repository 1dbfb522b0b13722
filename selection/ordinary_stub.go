package selection

import "time"

// Until the strategies' Wish is there.
func wished(s Strategy, candidates []Candidate, _ time.Time) map[string]float64 {
	weights := make(map[string]float64)
	for _, c := range candidates {
		weights[c.Instance] = 1
		if Weighs(s.Name()) {
			weights[c.Instance] = c.Weight
		}
	}
	return weights
}

func preferred(Candidate) int { return 0 }
