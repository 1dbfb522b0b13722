package selection

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

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

// comparePlaced puts what is in the published descriptor first.
func comparePlaced(a, b Candidate) int {
	return cmp.Compare(min(b.Place, 1), min(a.Place, 1))
}

// shuffled shuffles s in place.
func shuffled(s []Candidate, random *rand.Rand) []Candidate {
	random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s
}
