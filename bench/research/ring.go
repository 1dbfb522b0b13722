package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// Times of day are minutes from here on.
const hour = 60

// relay is an HSDir at its place in the ring.
type relay struct {
	place uint64
	id    int32
}

// rings are the HSDirs of each hour's consensus, by their place.
type rings [][]relay

// newRings has a part of the relays, churn, leave at every hour, and as many come
// to places of their own.
func newRings(r *rand.Rand, relays, hours int, churn float64) rings {
	all, next := make(rings, hours), int32(0)
	join := func() relay { next++; return relay{r.Uint64(), next} }
	var now []relay
	for len(now) < relays {
		now = append(now, join())
	}
	for h := range all {
		if h > 0 {
			now = slices.DeleteFunc(slices.Clone(now), func(relay) bool { return r.Float64() < churn })
			for range relays {
				if r.Float64() < churn {
					now = append(now, join())
				}
			}
		}
		slices.SortFunc(now, func(a, b relay) int { return cmp.Compare(a.place, b.place) })
		all[h] = now
	}
	return all
}

// nearest returns the first n relays from a place on, at an hour (rend-spec-v3,
// section 2.2.3).
func (all rings) nearest(hour int, place uint64, n int) []int32 {
	ring := all[hour]
	start, _ := slices.BinarySearchFunc(ring, place, func(a relay, place uint64) int { return cmp.Compare(a.place, place) })
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = ring[(start+i)%len(ring)].id
	}
	return ids
}

// holding returns, for each minute, the hour of the consensus that a tor then has. An
// ordinary one downloads the next 105 to 170 minutes after its own became valid; with
// FetchDirInfoExtraEarly after 62 or 63 (networkstatus.c,
// update_consensus_networkstatus_fetch_time_impl).
func holding(r *rand.Rand, hours int, early bool) []int {
	wait := func() int {
		if early {
			return 62 + r.IntN(2)
		}
		return 105 + r.IntN(66)
	}
	held, at := 0, make([]int, hours*hour)
	next := r.IntN(wait()) // not all at the same time
	for t := range at {
		if t >= next {
			held = t / hour
			next = held*hour + wait()
		}
		at[t] = held
	}
	return at
}
