package selection

import (
	"maps"
	"slices"
	"testing"

	"onionbalancer/descriptor"

	"pgregory.net/rapid"
)

func TestSpreadTable(t *testing.T) {
	for _, test := range []struct {
		name string
		pool []Candidate
		room Room
		want []int // chosen of each instance, ascending
	}{
		{"all of three alike", separate(3, 3, 3), Room{20, 3}, []int{3, 3, 3}},
		{"one instance, all it has", separate(10), Room{20, 3}, []int{10}},
		{"the limit", separate(20, 20), Room{20, 20}, []int{10, 10}},
		{"full turns only", separate(3, 3, 3, 3, 3, 3, 3), Room{20, 3}, []int{2, 2, 2, 2, 2, 2, 2}},
		{"one has more", separate(3, 10), Room{20, 3}, []int{3, 3}},
		{"one has fewer, at its own cost", separate(1, 10, 10), Room{20, 3}, []int{1, 3, 3}},
		{"three points at the price of evenness", separate(3, 3), Room{3, 3}, []int{1, 2}},
		{"not at that price with three", separate(3, 3, 3), Room{5, 3}, []int{1, 1, 1}},
		{"more instances than the limit", separate(3, 3, 3, 3, 3), Room{4, 3}, []int{1, 1, 1, 1}},
		{"shared relays move apart", offers([]int{1, 2, 3}, []int{1, 2, 3}, []int{1, 2, 3}), Room{20, 3}, []int{1, 1, 1}},
		{"one can give way", offers([]int{1}, []int{1, 2}, []int{2, 3}), Room{20, 3}, []int{1, 1, 1}},
		{"no way out", offers([]int{1}, []int{1}, []int{2, 3, 4}), Room{20, 3}, []int{1, 3}},
		{"none", nil, Room{20, 3}, nil},
	} {
		for seed := range uint64(20) {
			counts := slices.Sorted(maps.Values(countByInstance(choose(Spread{}, test.pool, test.room, seed))))
			if !slices.Equal(counts, test.want) {
				t.Errorf("%s: chosen by instance %v, want %v", test.name, counts, test.want)
				break
			}
		}
	}
}

// TestSpreadHeedsWeights: where the weights differ, spread gives what weighted does; where
// they are the same, whatever they are, what it gave before there were any.
func TestSpreadHeedsWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := drawPool(t)
		room := Room{rapid.IntRange(0, 25).Draw(t, "limit"), rapid.IntRange(1, 8).Draw(t, "per instance")}
		seed := rapid.Uint64().Draw(t, "seed")
		if differ := slices.ContainsFunc(pool, func(c Candidate) bool { return c.Weight != pool[0].Weight }); differ {
			if got, want := choose(Spread{}, pool, room, seed), choose(Weighted{}, pool, room, seed); !slices.Equal(got, want) {
				t.Fatalf("with weights: %v, want %v", keysOf(got), keysOf(want))
			}
		}
		weight := rapid.SampledFrom([]float64{0, 0.25, 1, 256}).Draw(t, "weight of all")
		for i := range pool {
			pool[i].Weight = weight
		}
		got := choose(Spread{}, pool, room, seed)
		for i := range pool {
			pool[i].Weight = 1
		}
		if want := choose(Spread{}, pool, room, seed); !slices.Equal(keysOf(got), keysOf(want)) {
			t.Fatalf("all of weight %v: %v, want %v", weight, keysOf(got), keysOf(want))
		}
	})
	pool := separate(3, 3, 3)
	for i := range pool[:3] {
		pool[i].Weight = 0.5
	}
	if got := countByInstance(choose(Spread{}, pool, Room{20, 3}, 1)); !maps.Equal(got, map[string]int{"a": 1, "b": 2, "c": 2}) {
		t.Errorf("half the weight: %v", got)
	}
}

// TestSpreadKeepsTheOddOne: of two instances that compete for the third relay,
// the one that has it keeps it.
func TestSpreadKeepsTheOddOne(t *testing.T) {
	pool := offers([]int{1, 2}, []int{2, 3})
	for _, odd := range []struct {
		chosen []Candidate
		want   map[string]int
	}{
		{[]Candidate{pool[0], pool[1], pool[3]}, map[string]int{"a": 2, "b": 1}},
		{[]Candidate{pool[0], pool[2], pool[3]}, map[string]int{"a": 1, "b": 2}},
	} {
		if got := countByInstance(choose(Spread{}, published(pool, odd.chosen), Room{20, 3}, 1)); !maps.Equal(got, odd.want) {
			t.Errorf("points by instance %v, want %v", got, odd.want)
		}
	}
}

// TestSpreadEven: as many instances as possible have a point, and where none
// lacks points or relays, the shares of three or more are the same.
func TestSpreadEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool, limit := drawPool(t), rapid.IntRange(1, 25).Draw(t, "limit")
		seed := rapid.Uint64().Draw(t, "seed")
		for i := range pool {
			pool[i].FirstSeen, pool[i].Weight = epoch, 1 // nobody came first
		}
		counts := countByInstance(choose(Spread{}, pool, Room{limit, 3}, seed))
		if want := min(limit, mostInstances(pool)); len(counts) != want {
			t.Fatalf("%d instances have a point, %d could", len(counts), want)
		}
		n := rapid.IntRange(3, 30).Draw(t, "instances with enough")
		points := slices.Repeat([]int{3}, n)
		counts = countByInstance(choose(Spread{}, separate(points...), Room{limit, 3}, seed))
		sorted := slices.Sorted(maps.Values(counts))
		if limit >= 3 && sorted[0] != sorted[len(sorted)-1] {
			t.Fatalf("points by instance: %v", counts)
		}
	})
}

// mostInstances counts the instances that can have a relay of their own at the
// same time, by Hall's theorem: the least, over all sets of relays, of the
// relays in the set and the instances that have others. Searching all sets is
// too much; growing alternating paths breadth first is another way than the
// package's own.
func mostInstances(pool []Candidate) int {
	relaysOf := make(map[string][]descriptor.Fingerprint)
	for _, c := range pool {
		relaysOf[c.Instance] = append(relaysOf[c.Instance], c.Point.Relay())
	}
	holder, holds := make(map[descriptor.Fingerprint]string), make(map[string]descriptor.Fingerprint)
	for _, start := range slices.Sorted(maps.Keys(relaysOf)) {
		from := make(map[descriptor.Fingerprint]string) // relay to the instance it was reached from
		queue, end := []string{start}, descriptor.Fingerprint{}
		for len(queue) > 0 && end == (descriptor.Fingerprint{}) {
			instance := queue[0]
			queue = queue[1:]
			for _, relay := range relaysOf[instance] {
				if _, seen := from[relay]; seen {
					continue
				}
				from[relay] = instance
				other, taken := holder[relay]
				if !taken {
					end = relay
					break
				}
				queue = append(queue, other)
			}
		}
		for relay := end; relay != (descriptor.Fingerprint{}); {
			instance := from[relay]
			given := holds[instance]
			holder[relay], holds[instance] = instance, relay
			relay = given
		}
	}
	return len(holds)
}
