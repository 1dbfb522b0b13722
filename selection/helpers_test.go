package selection

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

var epoch = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// candidate makes a point of an instance on a relay; key tells points apart.
func candidate(instance string, relay, key int) Candidate {
	point := &descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: fmt.Appendf(nil, "%020d", relay)}},
	}
	binary.BigEndian.PutUint64(point.AuthKey[:], uint64(key)+1)
	return Candidate{Instance: instance, Weight: 1, Point: point, FirstSeen: epoch, Published: epoch}
}

// offers makes a pool from each instance's relays, instances named a, b, c….
func offers(relays ...[]int) []Candidate {
	var pool []Candidate
	for i, rs := range relays {
		for _, r := range rs {
			pool = append(pool, candidate(string(rune('a'+i)), r, len(pool)))
		}
	}
	return pool
}

// separate makes a pool of instances with that many points each, no two of
// them on one relay.
func separate(points ...int) []Candidate {
	relays, next := make([][]int, len(points)), 0
	for i, n := range points {
		for range n {
			relays[i] = append(relays[i], next)
			next++
		}
	}
	return offers(relays...)
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

func pointsOf(chosen []Candidate) []descriptor.IntroductionPoint {
	points := make([]descriptor.IntroductionPoint, len(chosen))
	for i, c := range chosen {
		points[i] = *c.Point
	}
	return points
}

// published returns a copy of pool, marked with what was chosen from it.
func published(pool, chosen []Candidate) []Candidate {
	marked := slices.Clone(pool)
	Mark(marked, pointsOf(chosen))
	return marked
}

func keysOf(chosen []Candidate) [][32]byte {
	keys := make([][32]byte, len(chosen))
	for i, c := range chosen {
		keys[i] = c.Point.AuthKey
	}
	return keys
}

func countByInstance(chosen []Candidate) map[string]int {
	counts := make(map[string]int)
	for _, c := range chosen {
		counts[c.Instance]++
	}
	return counts
}

// drawPool draws instances that compete for relays more or less hard.
func drawPool(t *rapid.T) []Candidate {
	relays := rapid.IntRange(1, 60).Draw(t, "relays")
	var pool []Candidate
	for i := range rapid.IntRange(0, 25).Draw(t, "instances") {
		weight := rapid.SampledFrom([]float64{0, 0.5, 1, 1, 2, 3}).Draw(t, "weight")
		for range rapid.IntRange(0, 8).Draw(t, "points") {
			c := candidate(fmt.Sprintf("i%02d", i), rapid.IntRange(1, relays).Draw(t, "relay"), len(pool))
			c.Weight = weight
			c.FirstSeen = epoch.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seen")) * time.Hour)
			c.Published = epoch.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "published")) * time.Hour)
			pool = append(pool, c)
		}
	}
	return pool
}
