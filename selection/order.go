package selection

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// inOrder takes candidates in the order of compare, skipping relays that are
// taken already. Among equals those in the published descriptor come first,
// then chance decides.
func inOrder(candidates []Candidate, limit int, random *rand.Rand, compare func(a, b Candidate) int) []Candidate {
	var chosen []Candidate
	relays := make(map[string]bool)
	sorted := shuffled(distinct(candidates), random)
	slices.SortStableFunc(sorted, func(a, b Candidate) int {
		if c := compare(a, b); c != 0 {
			return c
		}
		return comparePlaced(a, b)
	})
	for _, c := range sorted {
		if len(chosen) >= limit {
			break
		}
		if relay := c.Point.Relay(); !relays[relay] {
			relays[relay] = true
			chosen = append(chosen, c)
		}
	}
	return arrange(chosen, random)
}

// arrange orders the chosen for the descriptor: what is published keeps its
// order, what is new goes in at places drawn by chance. A descriptor whose
// points all came that way is in an order drawn by chance, which tells nothing
// of the instances.
func arrange(chosen []Candidate, random *rand.Rand) []Candidate {
	var kept, added []Candidate
	for _, c := range chosen {
		if c.Place > 0 {
			kept = append(kept, c)
		} else {
			added = append(added, c)
		}
	}
	slices.SortStableFunc(kept, func(a, b Candidate) int { return cmp.Compare(a.Place, b.Place) })
	for _, c := range added {
		kept = slices.Insert(kept, random.IntN(len(kept)+1), c)
	}
	return kept
}

// distinct returns a copy without candidates whose introduction point came
// before. Of two with the same point, the first counts.
func distinct(candidates []Candidate) []Candidate {
	seen := make(map[[32]byte]bool, len(candidates))
	out := make([]Candidate, 0, len(candidates))
	for _, c := range candidates {
		if key := c.Point.AuthKey; !seen[key] {
			seen[key] = true
			out = append(out, c)
		}
	}
	return out
}

// comparePlaced puts what is in the published descriptor first.
func comparePlaced(a, b Candidate) int {
	return cmp.Compare(min(b.Place, 1), min(a.Place, 1))
}

// shuffled shuffles s in place.
func shuffled(s []Candidate, random *rand.Rand) []Candidate {
	random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}
