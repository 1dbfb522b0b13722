package selection

import (
	"reflect"
	"slices"
	"testing"

	"onionbalancer/descriptor"

	"pgregory.net/rapid"
)

// TestConformance holds every registered strategy to the contract of Strategy.
func TestConformance(t *testing.T) {
	for _, s := range strategies {
		t.Run(s.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { conform(t, s) })
		})
	}
}

func conform(t *rapid.T, s Strategy) {
	pool := drawPool(t)
	room := Room{rapid.IntRange(-1, 25).Draw(t, "limit"), rapid.IntRange(1, 8).Draw(t, "per instance")}
	seed := rapid.Uint64().Draw(t, "seed")
	if rapid.Bool().Draw(t, "published before") {
		// By another strategy, with other room.
		before := Room{rapid.IntRange(1, 25).Draw(t, "limit before"), rapid.IntRange(1, 8).Draw(t, "per instance before")}
		pool = published(pool, choose(Random{}, pool, before, seed+4))
	}
	before := slices.Clone(pool)

	chosen := choose(s, pool, room, seed)
	if !reflect.DeepEqual(pool, before) {
		t.Fatal("the input was changed")
	}
	checkChosen(t, pool, chosen, room)
	if again := choose(s, pool, room, seed); !reflect.DeepEqual(again, chosen) {
		t.Fatalf("the same random source gave %v, then %v", keysOf(chosen), keysOf(again))
	}

	marked := published(pool, chosen)
	slices.Reverse(marked)
	next := choose(s, marked, room, seed+2)
	if !slices.Equal(keysOf(next), keysOf(chosen)) {
		t.Fatalf("nothing changed, but the selection did: %v, then %v", keysOf(chosen), keysOf(next))
	}

	// A candidate that was not chosen, of an instance that has others and on a
	// relay that nobody else wanted, goes away: what was chosen stays, in its order.
	// Another may come beside it, of an instance whose lack no longer looks shared.
	wanted, has := make(map[descriptor.Fingerprint]int), countByInstance(chosen)
	for _, c := range marked {
		wanted[c.Point.Relay()]++
	}
	idle := slices.DeleteFunc(marked, func(c Candidate) bool {
		return c.Place == 0 && has[c.Instance] > 0 && wanted[c.Point.Relay()] == 1 && rapid.Bool().Draw(t, "gone")
	})
	after := choose(s, idle, room, seed+3)
	kept := slices.DeleteFunc(keysOf(after), func(key [32]byte) bool { return !slices.Contains(keysOf(chosen), key) })
	if !slices.Equal(kept, keysOf(chosen)) {
		t.Fatalf("idle candidates went, and the selection changed: %v, then %v", keysOf(chosen), keysOf(after))
	}
}

func checkChosen(t *rapid.T, pool, chosen []Candidate, room Room) {
	if len(chosen) > max(room.Points, 0) {
		t.Fatalf("%d chosen, room for %d", len(chosen), room.Points)
	}
	counts := countByInstance(chosen)
	for instance, n := range counts {
		if n > room.PerInstance && len(counts) > 1 {
			t.Fatalf("%d chosen of %s, room for %d", n, instance, room.PerInstance)
		}
	}
	if len(chosen) == 0 && room.Points > 0 && len(pool) > 0 {
		t.Fatal("none chosen though there are candidates")
	}
	relays, keys := make(map[descriptor.Fingerprint]bool), make(map[[32]byte]bool)
	for _, c := range chosen {
		if !slices.Contains(pool, c) {
			t.Fatalf("%v is not among the candidates", c)
		}
		if relays[c.Point.Relay()] {
			t.Fatalf("two chosen on relay %s", c.Point.Relay())
		}
		relays[c.Point.Relay()] = true
		if keys[c.Point.AuthKey] {
			t.Fatalf("two chosen with the key %x", c.Point.AuthKey)
		}
		keys[c.Point.AuthKey] = true
	}
}

// TestOrderTellsNothing: neither whose point is first nor whose points stand
// side by side depends on the instances, whatever the strategy.
func TestOrderTellsNothing(t *testing.T) {
	const rounds = 2000
	for _, s := range strategies {
		first, neighbours := 0, 0
		for seed := range uint64(rounds) {
			chosen := choose(s, separate(3, 3), Room{20, 3}, seed)
			if chosen[0].Instance == "a" {
				first++
			}
			for i := range chosen[1:] {
				if chosen[i].Instance == chosen[i+1].Instance {
					neighbours++
				}
			}
		}
		if first < rounds*45/100 || first > rounds*55/100 {
			t.Errorf("%s: instance a was first in %d of %d", s.Name(), first, rounds)
		}
		// Of five pairs in six points in a random order, two are of one instance.
		if neighbours < rounds*19/10 || neighbours > rounds*21/10 {
			t.Errorf("%s: %d neighbours in %d rounds are of one instance", s.Name(), neighbours, rounds)
		}
	}
}

// TestSmallChange: when one point of many is replaced by its instance, the
// others keep their places relative to each other, whatever the strategy.
func TestSmallChange(t *testing.T) {
	for _, s := range strategies {
		pool := separate(3, 3, 3)
		chosen := choose(s, pool, Room{20, 3}, 1)
		if len(chosen) != 9 {
			t.Fatalf("%s: %d chosen of 9", s.Name(), len(chosen))
		}
		pool[4] = candidate("b", 100, 100)
		next := choose(s, published(pool, chosen), Room{20, 3}, 2)
		kept := slices.DeleteFunc(slices.Clone(next), func(c Candidate) bool { return c.Place == 0 })
		var want [][32]byte
		for _, c := range chosen {
			if c.Point.Relay() != separate(3, 3, 3)[4].Point.Relay() {
				want = append(want, c.Point.AuthKey)
			}
		}
		if len(next) != 9 || !slices.Equal(keysOf(kept), want) {
			t.Errorf("%s: %v became %v", s.Name(), keysOf(chosen), keysOf(next))
		}
	}
}

// TestGrowthDisplacesNobody: an instance that gets more points takes relays that
// are free rather than those where another is published.
func TestGrowthDisplacesNobody(t *testing.T) {
	pool := offers([]int{1, 2, 3, 4}, []int{2, 5, 6, 7})
	for _, s := range strategies {
		for seed := range uint64(50) {
			marked := published(pool, []Candidate{pool[0], pool[4]})
			next := Assign(s, Request{Candidates: pool, Slots: []Slot{heldBy(marked)}, Room: Room{4, 3}, Seed: seedOf(seed), Refresh: true}).Points[0]
			if len(next) != 4 {
				t.Fatalf("%s: %d chosen", s.Name(), len(next))
			}
			for _, kept := range []Candidate{pool[0], pool[4]} {
				if !slices.Contains(keysOf(next), kept.Point.AuthKey) {
					t.Fatalf("%s: the point %x of %s went without need", s.Name(), kept.Point.AuthKey, kept.Instance)
				}
			}
		}
	}
}
