package selection

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"

	"pgregory.net/rapid"
)

// ordinaryPoints chooses for slots of which the first holds what is published.
func ordinaryPoints(pool, published []Candidate, room int, seed byte, other ...Candidate) []Candidate {
	r := Request{Now: epoch.Add(24 * time.Hour), Candidates: pool, Slots: make([]Slot, 8), Room: Room{Points: room}, Seed: [32]byte{seed}}
	r.Slots[0].Holds = keysOf(published)
	return Ordinary(Spread{}, r, keysOf(other)).Points[7]
}

// TestOrdinaryContract: as many points as the relays allow, none of the other
// descriptor's while there are others, whatever is offered and published; and what was
// chosen stays.
func TestOrdinaryContract(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := drawPool(t)
		r := Request{Now: epoch.Add(3 * time.Hour), Candidates: pool, Slots: make([]Slot, 3), Room: Room{Points: rapid.IntRange(3, 8).Draw(t, "points")}}
		r.Seed[0] = rapid.Byte().Draw(t, "seed")
		var other [][32]byte
		for _, c := range pool {
			switch rapid.IntRange(0, 5).Draw(t, "where") {
			case 0:
				other = append(other, c.Point.AuthKey)
			case 1:
				r.Slots[1].Holds = append(r.Slots[1].Holds, c.Point.AuthKey)
			}
		}
		before := slices.Clone(pool)
		a := Ordinary(Weighted{}, r, other)
		if !reflect.DeepEqual(pool, before) || !reflect.DeepEqual(a.Slots, r.Slots) {
			t.Fatal("the input was changed")
		}
		chosen := a.Points[0]
		relays, free := make(map[descriptor.Fingerprint]bool), make(map[descriptor.Fingerprint]bool)
		for _, c := range pool {
			relays[c.Point.Relay()] = true
			if !slices.Contains(other, c.Point.AuthKey) {
				free[c.Point.Relay()] = true
			}
		}
		if len(chosen) != min(len(relays), r.Room.Points) {
			t.Fatalf("%d chosen of %d relays, want %d", len(chosen), len(relays), r.Room.Points)
		}
		clear(relays)
		apart := 0
		for _, c := range chosen {
			if relays[c.Point.Relay()] {
				t.Fatalf("%x is on a relay that another is on", c.Point.AuthKey)
			}
			relays[c.Point.Relay()] = true
			if !slices.Contains(other, c.Point.AuthKey) {
				apart++
			}
		}
		if apart != min(len(free), r.Room.Points) {
			t.Fatalf("%d of %d are not in the other descriptor, and %d relays are free of it", apart, len(chosen), len(free))
		}
		r.Candidates = rapid.Permutation(pool).Draw(t, "another order")
		if again := Ordinary(Weighted{}, r, other).Points[2]; !slices.Equal(keysOf(again), keysOf(chosen)) {
			t.Fatalf("in another order %v, were %v", keysOf(again), keysOf(chosen))
		}
		// Published, they stay, whatever the seed, the age and the other candidates.
		r.Slots[0].Holds, r.Slots[1].Holds = keysOf(chosen), nil
		r.Seed[1]++
		r.Now = r.Now.Add(20 * time.Hour)
		r.Candidates = slices.DeleteFunc(r.Candidates, func(c Candidate) bool {
			return !slices.Contains(r.Slots[0].Holds, c.Point.AuthKey) && rapid.Bool().Draw(t, "gone")
		})
		if next := Ordinary(Spread{}, r, other).Points[0]; !slices.Equal(keysOf(next), keysOf(chosen)) {
			t.Fatalf("published %v, then %v", keysOf(chosen), keysOf(next))
		}
	})
}

// TestOrdinaryReplaces: a lost point is replaced at once, by one of an instance that
// has none, and the others keep their order.
func TestOrdinaryReplaces(t *testing.T) {
	places := make([]int, 3)
	for seed := range byte(200) {
		pool := separate(3, 3, 3, 3, 3)
		chosen := ordinaryPoints(pool, nil, 3, seed)
		if counts := countByInstance(chosen); len(counts) != 3 {
			t.Fatalf("of three points of five instances: %v", counts)
		}
		lost := chosen[int(seed)%3]
		pool = slices.DeleteFunc(pool, func(c Candidate) bool { return c.Instance == lost.Instance })
		next := ordinaryPoints(pool, chosen, 3, seed)
		if counts := countByInstance(next); len(next) != 3 || len(counts) != 3 {
			t.Fatalf("%d points, of %v", len(next), counts)
		}
		left := slices.DeleteFunc(slices.Clone(next), func(c Candidate) bool { return c.Place == 0 })
		want := slices.DeleteFunc(keysOf(chosen), func(k [32]byte) bool { return k == lost.Point.AuthKey })
		if !slices.Equal(keysOf(left), want) {
			t.Fatalf("left of %v: %v", keysOf(chosen), keysOf(left))
		}
		places[slices.IndexFunc(next, func(c Candidate) bool { return c.Place == 0 })]++
	}
	if slices.Min(places) < 30 {
		t.Errorf("the new point's places: %v of 200", places)
	}
}

// TestOrdinaryTable: which instances have the points.
func TestOrdinaryTable(t *testing.T) {
	for _, test := range []struct {
		name      string
		points    []int
		room      int
		published []int // in this descriptor, by place in the pool
		other     []int
		want      []int // of each instance, ascending
	}{
		{"three by default", []int{3, 3, 3, 3}, 0, nil, nil, []int{1, 1, 1}},
		{"two instances", []int{9, 9}, 3, nil, nil, []int{1, 2}},
		{"one instance", []int{9}, 3, nil, []int{0, 1, 2}, []int{3}},
		{"eight of five", []int{3, 3, 3, 3, 3}, 8, nil, nil, []int{1, 1, 2, 2, 2}},
		{"six in both", []int{3, 3, 3, 3, 3, 3}, 3, nil, []int{0, 3, 6}, []int{1, 1, 1}},
		{"what stays, stays", []int{3, 3, 3}, 3, []int{0, 1, 2}, nil, []int{3}},
		{"too many of before", []int{3, 3, 3, 3}, 3, []int{0, 1, 2, 3, 4, 6}, nil, []int{1, 1, 1}},
		{"not enough for both", []int{1, 3}, 3, nil, []int{1, 2}, []int{1, 2}},
		{"not enough for one", []int{1, 1}, 3, nil, nil, []int{1, 1}},
		{"enough by now", []int{3, 3}, 3, []int{0, 1, 3}, []int{0, 1, 3}, []int{1, 2}},
	} {
		pool := separate(test.points...)
		pick := func(places []int) (list []Candidate) {
			for _, n := range places {
				list = append(list, pool[n])
			}
			return list
		}
		for seed := range byte(20) {
			chosen := ordinaryPoints(pool, pick(test.published), test.room, seed, pick(test.other)...)
			var counts []int
			for _, n := range countByInstance(chosen) {
				counts = append(counts, n)
			}
			if slices.Sort(counts); !slices.Equal(counts, test.want) {
				t.Errorf("%s: %v, want %v", test.name, counts, test.want)
			}
		}
	}
	// Six instances, three of which the other descriptor has: the other three, newborn
	// points or not.
	pool := separate(3, 3, 3, 3, 3, 3)
	for i := range pool[:9] {
		pool[i].FirstSeen = epoch.Add(24 * time.Hour)
	}
	for _, c := range ordinaryPoints(pool, nil, 3, 1, pool[0], pool[3], pool[6]) {
		if c.Instance < "d" {
			t.Errorf("%s is in both descriptors while others are in none", c.Instance)
		}
	}
}

// TestOrdinaryWeights: each instance has a point before the weights give one a second.
func TestOrdinaryWeights(t *testing.T) {
	pool := separate(9, 9, 9)
	for i := range pool {
		pool[i].Weight = []float64{6, 1, 1}[i/9]
	}
	for room, want := range map[int]map[string]int{3: {"a": 1, "b": 1, "c": 1}, 5: {"a": 3, "b": 1, "c": 1}, 8: {"a": 6, "b": 1, "c": 1}} {
		r := Request{Candidates: pool, Slots: make([]Slot, 1), Room: Room{Points: room}}
		if got := countByInstance(Ordinary(Weighted{}, r, nil).Points[0]); !maps.Equal(got, want) {
			t.Errorf("of %d points: %v, want %v", room, got, want)
		}
	}
}

// TestOrdinaryNewborn: a newborn point comes first, or else one about as young as the
// youngest; never an old one.
func TestOrdinaryNewborn(t *testing.T) {
	now := epoch.Add(24 * time.Hour)
	for _, test := range []struct {
		ages []time.Duration // of the points of instances a, b, c
		want string          // instances that may be chosen
	}{
		{[]time.Duration{9 * time.Minute, 11 * time.Minute, time.Hour}, "a"},
		{[]time.Duration{9 * time.Minute, time.Second, time.Hour}, "ab"},
		{[]time.Duration{5 * time.Hour, 5*time.Hour + 59*time.Minute, 7 * time.Hour}, "ab"},
		{[]time.Duration{20 * time.Hour, 5 * time.Hour, 7 * time.Hour}, "b"},
	} {
		seen := make(map[string]bool)
		for seed := range byte(50) {
			pool := separate(2, 2, 2)
			for i := range pool {
				pool[i].FirstSeen = now.Add(-test.ages[i/2] - time.Duration(i%2)*12*time.Hour) // the second is older
			}
			r := Request{Now: now, Candidates: pool, Slots: make([]Slot, 1), Room: Room{Points: 1}, Seed: [32]byte{seed}}
			c := Ordinary(Spread{}, r, nil).Points[0][0]
			if seen[c.Instance] = true; now.Sub(c.FirstSeen) != test.ages[c.Instance[0]-'a'] {
				t.Errorf("ages %v: the older point of %s", test.ages, c.Instance)
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			if want := slices.Contains([]byte(test.want), name[0]); seen[name] != want {
				t.Errorf("ages %v: %s chosen is %v", test.ages, name, seen[name])
			}
		}
	}
}

// TestOrdinaryDrained: a drained instance gets nothing, and what it has is replaced, as
// long as there is another.
func TestOrdinaryDrained(t *testing.T) {
	pool := separate(3, 3, 3, 3)
	for i := range pool {
		pool[i].Weight = float64(min(i/3, 1)) // none for a
	}
	r := Request{Candidates: pool, Slots: []Slot{{Holds: keysOf([]Candidate{pool[0], pool[3], pool[6]})}}, Room: Room{Points: 3}}
	if got := countByInstance(Ordinary(Weighted{}, r, nil).Points[0]); got["a"] != 0 || len(got) != 3 {
		t.Errorf("a drained: %v", got)
	}
	r.Candidates = pool[:4]
	if got := countByInstance(Ordinary(Weighted{}, r, nil).Points[0]); got["a"] != 2 || got["b"] != 1 {
		t.Errorf("a drained and too few others: %v", got)
	}
}

// TestOrdinaryShares: over many replacements, each at the end of a point's life, the
// instances stand in the descriptors for as long as their weights say.
func TestOrdinaryShares(t *testing.T) {
	for _, weights := range [][]float64{
		{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		{3, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1},
		{4, 1, 1, 1, 1, 1, 1, 1, 1},
	} {
		shares, sum := turnover(weights, 3, 3000), 0.0
		got, want := make(map[float64]float64), make(map[float64]float64) // by weight
		for n, w := range weights {
			got[w], want[w], sum = got[w]+shares[n], want[w]+w, sum+w
		}
		for w := range want {
			if want := want[w] / sum; math.Abs(got[w]-want) > 0.1*want {
				t.Errorf("weights %v: share %.3f of those of weight %v, want %.3f", weights, got[w], w, want)
			}
		}
	}
}

// turnover returns the instances' shares over so many ends of points, in two
// descriptors of k points that are chosen in turns. At each end the instance whose point
// it was has a newborn one, and some others do.
func turnover(weights []float64, k, ends int) []float64 {
	random := rand.New(rand.NewPCG(1, 2))
	held, shares := [2][]Candidate{}, make([]float64, len(weights))
	key := 0
	offer := func(n int) Candidate {
		key++
		c := candidate(fmt.Sprint(n), key, key)
		c.Weight = weights[n]
		return c
	}
	for end := range ends {
		d, lost := end%2, ""
		if n := len(held[d]); n > 0 {
			lost = held[d][n-1].Instance
			held[d] = held[d][:n-1]
		}
		pool := slices.Concat(held[0], held[1])
		for n := range weights {
			c := offer(n)
			if fmt.Sprint(n) != lost && random.IntN(2) == 0 {
				c.FirstSeen = epoch.Add(-time.Duration(1+random.IntN(18)) * time.Hour)
			}
			pool = append(pool, c)
		}
		r := Request{Now: epoch, Candidates: pool, Slots: []Slot{{Holds: keysOf(held[d])}}, Room: Room{Points: k}}
		held[d] = Ordinary(Weighted{}, r, keysOf(held[1-d])).Points[0]
		random.Shuffle(len(held[d]), func(i, j int) { held[d][i], held[d][j] = held[d][j], held[d][i] }) // whose end is next
		for _, c := range slices.Concat(held[0], held[1]) {
			var n int
			fmt.Sscan(c.Instance, &n)
			shares[n] += 1 / float64(2*k*ends)
		}
	}
	return shares
}
