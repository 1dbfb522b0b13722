package selection

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

func TestLookup(t *testing.T) {
	if s, err := Lookup(""); err != nil || s.Name() != Default {
		t.Errorf("the empty name gives %v, %v", s, err)
	}
	if names := Names(); names[0] != Default {
		t.Errorf("the default is not the first of %v", names)
	}
	for _, name := range []string{"spread", "random", "freshest", "longest-lived", "weighted", "least-loaded"} {
		if s, err := Lookup(name); err != nil || s.Name() != name {
			t.Errorf("%s gives %v, %v", name, s, err)
		}
	}
	if _, err := Lookup("sprad"); err == nil || !strings.Contains(err.Error(), `"sprad"`) || !strings.Contains(err.Error(), "spread") {
		t.Errorf("an unknown name gives %v", err)
	}
}

func TestShares(t *testing.T) {
	for _, test := range []struct {
		name   string
		points []Candidate
		want   map[string]float64
	}{
		{"none", nil, map[string]float64{}},
		{"by number", separate(1, 3), map[string]float64{"a": .25, "b": .75}},
		{"shadowed", offers([]int{1, 2}, []int{1, 3}), map[string]float64{"a": .75, "b": .25}},
		{"shadowed altogether", offers([]int{1}, []int{1}), map[string]float64{"a": 1, "b": 0}},
		{"twice in its own shadow", offers([]int{1, 1}, []int{2, 3}), map[string]float64{"a": .5, "b": .5}},
	} {
		got := Shares(test.points)
		same := maps.EqualFunc(got, test.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
		if !same {
			t.Errorf("%s: shares %v, want %v", test.name, got, test.want)
		}
	}
}

// TestAssignmentShares: what clients do not ask does not count.
func TestAssignmentShares(t *testing.T) {
	a, b, both := separate(1), separate(0, 1), separate(1, 3)
	for _, test := range []struct {
		asked []bool
		want  map[string]float64
	}{
		{[]bool{true, true, true}, map[string]float64{"a": 1.25 / 3, "b": 1.75 / 3}},
		{[]bool{true, false, true}, map[string]float64{"a": .625, "b": .375}},
		{[]bool{false, true, false}, map[string]float64{"b": 1}},
		{[]bool{false, false, false}, map[string]float64{"a": 1.25 / 3, "b": 1.75 / 3}},
	} {
		assignment := Assignment{Points: [][]Candidate{a, b, both}}
		for _, asked := range test.asked {
			assignment.Slots = append(assignment.Slots, Slot{Replica: 1, Asked: asked})
		}
		got := assignment.Shares()
		if !maps.EqualFunc(got, test.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("asked %v: shares %v, want %v", test.asked, got, test.want)
		}
	}
}

// TestAssign: the same request gives the same, whatever the order of its
// candidates, and leaves them as they were.
func TestAssign(t *testing.T) {
	for _, s := range strategies {
		rapid.Check(t, func(t *rapid.T) {
			r := Request{Candidates: drawPool(t), Room: Room{rapid.IntRange(0, 25).Draw(t, "limit"), 3}, Slots: make([]Slot, 3)}
			r.Seed[0] = rapid.Byte().Draw(t, "seed")
			if rapid.Bool().Draw(t, "published before") {
				r.Slots[1].Holds = keysOf(choose(Random{}, r.Candidates, Room{10, 3}, 1))
			}
			before := slices.Clone(r.Candidates)
			want := Assign(s, r)
			if !reflect.DeepEqual(r.Candidates, before) {
				t.Fatal("the input was changed")
			}
			if len(want.Points) != len(r.Slots) || !reflect.DeepEqual(want.Slots, r.Slots) {
				t.Fatalf("%d slots with %d lists of points, want %d", len(want.Slots), len(want.Points), len(r.Slots))
			}
			r.Candidates = rapid.Permutation(before).Draw(t, "another order")
			if got := Assign(s, r); !reflect.DeepEqual(got, want) {
				t.Fatalf("in another order %v, were %v", keysOf(got.Points[0]), keysOf(want.Points[0]))
			}
		})
	}
}

// TestAssignGolden: what is left to chance follows from the seed, on every
// machine and with every version of this program that shares a service.
func TestAssignGolden(t *testing.T) {
	for seed, want := range map[byte]string{1: "c4 b3 d6 a a1", 2: "c5 b3 d6 a a1"} {
		r := Request{Candidates: separate(2, 2, 2, 2), Slots: make([]Slot, 1), Room: Room{5, 3}, Seed: [32]byte{seed}}
		var got []string
		for _, c := range Assign(Random{}, r).Points[0] {
			got = append(got, c.Instance+strings.TrimLeft(string(c.Point.LinkSpecifiers[0].Data), "0"))
		}
		if joined := strings.Join(got, " "); joined != want {
			t.Errorf("seed %d: %s, want %s", seed, joined, want)
		}
	}
}

func TestSharesSumToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool, sum := drawPool(t), 0.0
		for _, share := range Shares(pool) {
			sum += share
		}
		if len(pool) > 0 && math.Abs(sum-1) > 1e-9 {
			t.Fatalf("shares sum to %v", sum)
		}
	})
}

func TestWeightedTable(t *testing.T) {
	for _, test := range []struct {
		name    string
		points  []int
		each    int // room for each instance
		weights []float64
		want    map[string]int
	}{
		{"equal weights are spread", []int{3, 3}, 3, []float64{1, 1}, map[string]int{"a": 3, "b": 3}},
		{"three to one", []int{3, 3}, 3, []float64{3, 1}, map[string]int{"a": 3, "b": 1}},
		{"scale does not matter", []int{3, 3}, 3, []float64{0.75, 0.25}, map[string]int{"a": 3, "b": 1}},
		{"the most points that fit", []int{20, 20}, 20, []float64{3, 1}, map[string]int{"a": 15, "b": 5}},
		{"three weights", []int{10, 10, 10}, 20, []float64{5, 3, 2}, map[string]int{"a": 10, "b": 6, "c": 4}},
		{"a trickle", []int{3, 3}, 3, []float64{1000, 1}, map[string]int{"a": 2, "b": 1}},
		{"drained", []int{3, 3}, 3, []float64{0, 1}, map[string]int{"b": 3}},
		{"all drained", []int{3, 3}, 3, []float64{0, 0}, map[string]int{"a": 3, "b": 3}},
	} {
		pool := separate(test.points...)
		for i := range pool {
			pool[i].Weight = test.weights[pool[i].Instance[0]-'a']
		}
		if got := countByInstance(choose(Weighted{}, pool, Room{20, test.each}, 1)); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestReach(t *testing.T) {
	weights := map[string]float64{"a": 9, "b": 1, "drained": 0}
	for each, want := range map[int]float64{1: 0.83, 3: 0.9} {
		got := Weighted{}.Reach(weights, Room{20, each})
		if math.Abs(got["a"]-want) > 0.01 || math.Abs(got["b"]-(1-want)) > 0.01 || len(got) != 2 {
			t.Errorf("with %d points each: %v", each, got)
		}
	}
}

// TestByAge: with one place, longest-lived takes the oldest, and all others the
// youngest.
func TestByAge(t *testing.T) {
	pool := separate(4)
	for i := range pool {
		pool[i].FirstSeen = epoch.Add(time.Duration(i/2) * time.Hour)
		pool[i].Published = epoch.Add(time.Duration(i%2) * time.Hour)
	}
	taken := make(map[string][4]int)
	for _, s := range []Strategy{Freshest{}, LongestLived{}, Random{}} {
		var count [4]int
		for seed := range uint64(200) {
			count[slices.Index(keysOf(pool), choose(s, pool, Room{1, 3}, seed)[0].Point.AuthKey)]++
		}
		taken[s.Name()] = count
	}
	if got := taken["freshest"]; got[3] != 200 {
		t.Errorf("freshest took %v, want the last", got)
	}
	if got := taken["longest-lived"]; got[0]+got[1] != 200 || got[0] < 50 || got[1] < 50 {
		t.Errorf("longest-lived took %v, want the first two alike", got)
	}
	if got := taken["random"]; got[2]+got[3] != 200 {
		t.Errorf("random took %v, want the last two", got)
	}
}

// TestRandomFills: no room is left while instances have points.
func TestRandomFills(t *testing.T) {
	for limit := range 26 {
		chosen := choose(Random{}, separate(3, 3, 3, 3, 3, 3, 3), Room{limit, 3}, 1)
		if want := min(limit, 21); len(chosen) != want {
			t.Errorf("%d chosen, want %d", len(chosen), want)
		}
	}
}

// TestSamePointTwice: a point that two instances claim is chosen once.
func TestSamePointTwice(t *testing.T) {
	pool := append(separate(1, 1), candidate("c", 9, 0))
	for _, s := range strategies {
		if chosen := choose(s, pool, Room{20, 3}, 1); len(chosen) != 2 {
			t.Errorf("%s chose %d of 2", s.Name(), len(chosen))
		}
	}
}

func BenchmarkSpreadManyInstances(b *testing.B) {
	points := make([]int, 1000)
	for i := range points {
		points[i] = 3
	}
	pool := separate(points...)
	for b.Loop() {
		choose(Spread{}, pool, Room{20, 3}, 1)
	}
}

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

// choose has s choose the points of one slot, which holds those of the pool that have a
// Place.
func choose(s Strategy, pool []Candidate, room Room, seed uint64) []Candidate {
	return Assign(s, Request{Now: epoch, Candidates: pool, Slots: []Slot{heldBy(pool)}, Room: room, Seed: seedOf(seed)}).Points[0]
}

// heldBy returns a slot that holds the published ones of the pool.
func heldBy(pool []Candidate) Slot {
	held := slices.DeleteFunc(slices.Clone(pool), func(c Candidate) bool { return c.Place == 0 })
	slices.SortFunc(held, func(a, b Candidate) int { return cmp.Compare(a.Place, b.Place) })
	return Slot{Replica: 1, Asked: true, Holds: keysOf(held)}
}

func seedOf(n uint64) (seed [32]byte) {
	binary.BigEndian.PutUint64(seed[:], n)
	return seed
}

// published returns a copy of pool, marked with what was chosen from it.
func published(pool, chosen []Candidate) []Candidate {
	marked := slices.Clone(pool)
	for i := range marked {
		marked[i].Place = 1 + slices.Index(keysOf(chosen), marked[i].Point.AuthKey)
	}
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
