package selection

import (
	"reflect"
	"slices"
	"testing"

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
	limit := rapid.IntRange(-1, 25).Draw(t, "limit")
	seed := rapid.Uint64().Draw(t, "seed")
	before := slices.Clone(pool)

	chosen := s.Select(pool, limit, source(seed))
	if !reflect.DeepEqual(pool, before) {
		t.Fatal("the input was changed")
	}
	checkChosen(t, pool, chosen, limit)
	if again := s.Select(pool, limit, source(seed)); !reflect.DeepEqual(again, chosen) {
		t.Fatalf("the same random source gave %v, then %v", keysOf(chosen), keysOf(again))
	}

	marked := published(pool, chosen)
	shuffled(marked, source(seed+1))
	next := s.Select(marked, limit, source(seed+2))
	if !slices.Equal(keysOf(next), keysOf(chosen)) {
		t.Fatalf("nothing changed, but the selection did: %v, then %v", keysOf(chosen), keysOf(next))
	}

	// A candidate that was not chosen and goes away changes nothing.
	idle := slices.DeleteFunc(marked, func(c Candidate) bool {
		return c.Place == 0 && rapid.Bool().Draw(t, "gone")
	})
	if s.Name() == "weighted" {
		return // its idle candidates can decide how short relays are shared out
	}
	if next := s.Select(idle, limit, source(seed+3)); !slices.Equal(keysOf(next), keysOf(chosen)) {
		t.Fatalf("idle candidates went, and the selection changed: %v, then %v", keysOf(chosen), keysOf(next))
	}
}

func checkChosen(t *rapid.T, pool, chosen []Candidate, limit int) {
	if len(chosen) > max(limit, 0) {
		t.Fatalf("%d chosen, limit %d", len(chosen), limit)
	}
	if len(chosen) == 0 && limit > 0 && len(pool) > 0 {
		t.Fatal("none chosen though there are candidates")
	}
	relays := make(map[string]bool)
	for _, c := range chosen {
		if !slices.Contains(pool, c) {
			t.Fatalf("%v is not among the candidates", c)
		}
		if relays[c.Point.Relay()] {
			t.Fatalf("two chosen on relay %s", c.Point.Relay())
		}
		relays[c.Point.Relay()] = true
	}
}

// TestOrderTellsNothing: whose point is first must not depend on the order of
// the input, whatever the strategy.
func TestOrderTellsNothing(t *testing.T) {
	const rounds = 2000
	for _, s := range strategies {
		first := make(map[string]int)
		for seed := range uint64(rounds) {
			first[s.Select(separate(3, 3), 20, source(seed))[0].Instance]++
		}
		if n := first["a"]; n < rounds*45/100 || n > rounds*55/100 {
			t.Errorf("%s: instance a was first in %d of %d", s.Name(), n, rounds)
		}
	}
}

// TestSmallChange: when one point of many is replaced by its instance, the
// others keep their places relative to each other, whatever the strategy.
func TestSmallChange(t *testing.T) {
	for _, s := range strategies {
		pool := separate(3, 3, 3)
		chosen := s.Select(pool, 20, source(1))
		if len(chosen) != 9 {
			t.Fatalf("%s: %d chosen of 9", s.Name(), len(chosen))
		}
		pool[4] = candidate("b", 100, 100)
		next := s.Select(published(pool, chosen), 20, source(2))
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
