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

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

// ring returns the slots of the public network: three of each replica that clients ask,
// and one of each in reserve.
func ring() []Slot {
	var slots []Slot
	for replica := 1; replica <= 2; replica++ {
		for n := range 4 {
			slots = append(slots, Slot{Replica: replica, Asked: n < 3})
		}
	}
	return slots
}

// holding returns the slots of a, with what it assigns to them.
func holding(a Assignment) []Slot {
	slots := slices.Clone(a.Slots)
	for n := range slots {
		slots[n].Holds = keysOf(a.Points[n])
	}
	return slots
}

func sameHolds(a, b []Slot) bool {
	return slices.EqualFunc(a, b, func(a, b Slot) bool { return slices.Equal(a.Holds, b.Holds) })
}

// many makes a pool of n instances with three points each, of the given weights.
func many(n int, weight func(i int) float64) []Candidate {
	var pool []Candidate
	for i := range n {
		for range 3 {
			c := candidate(fmt.Sprintf("i%03d", i), len(pool), len(pool))
			c.Weight = weight(i)
			pool = append(pool, c)
		}
	}
	return pool
}

func equal(int) float64 { return 1 }

var weightings = map[string]func(i int) float64{
	"equal":             equal,
	"1 to 3 in turn":    func(i int) float64 { return float64(1 + i%3) },
	"0.5 to 2":          func(i int) float64 { return math.Exp2(2*rand.New(rand.NewPCG(uint64(i), 1)).Float64() - 1) },
	"one of five times": func(i int) float64 { return map[bool]float64{true: 5, false: 1}[i == 0] },
}

// off is how far the worst share is off, relative to what the weights ask for.
func off(shares map[string]float64, pool []Candidate) (worst float64) {
	weights, total := make(map[string]float64), 0.0
	for _, c := range pool {
		weights[c.Instance] = c.Weight
	}
	for _, w := range weights {
		total += w
	}
	for name, w := range weights {
		worst = max(worst, math.Abs(shares[name]/(w/total)-1))
	}
	return worst
}

// plans returns what Assign gives in Turns refreshes, one after the other; a few of
// them will do if instances take no turns.
func plans(s Strategy, r Request) (list []Assignment) {
	r.Refresh = true
	for range Turns {
		a := Assign(s, r)
		if list = append(list, a); !a.Sampled && len(list) > 3 {
			break
		}
		r.Slots, r.Turn = holding(a), r.Turn+1
	}
	return list
}

// day is how many refreshes a day has.
const day = 16

// overTurns is the mean of what each of the assignments gives.
func overTurns(list []Assignment) map[string]float64 {
	shares := make(map[string]float64)
	for _, a := range list {
		for name, share := range a.Shares() {
			shares[name] += share / float64(len(list))
		}
	}
	return shares
}

// TestPlanShares: shares come as near to the weights as whole points allow, at any time,
// or else over the turns; and what is promised is what comes out.
func TestPlanShares(t *testing.T) {
	// How far the worst share may be off with at most so many instances.
	bounds := map[string][]struct {
		instances int
		now       float64 // unless it is sampled
		turns     float64
	}{
		"equal":             {{60, 0.03, 0.03}, {120, 0.08, 0.08}, {200, 0, 0.03}},
		"1 to 3 in turn":    {{60, 0.04, 0.04}, {120, 0.08, 0.03}, {200, 0, 0.05}},
		"0.5 to 2":          {{20, 0.08, 0.08}, {60, 0.08, 0.03}, {120, 0, 0.04}, {200, 0, 0.06}},
		"one of five times": {{59, 0.03, 0.03}, {120, 0.08, 0.07}, {200, 0, 0.03}},
	}
	for name, weight := range weightings {
		for _, n := range []int{1, 2, 5, 13, 20, 41, 60, 61, 120, 200} {
			bound := bounds[name][slices.IndexFunc(bounds[name], func(b struct {
				instances  int
				now, turns float64
			}) bool {
				return n <= b.instances
			})]
			pool := many(n, weight)
			list := plans(Spread{}, Request{Now: epoch, Candidates: pool, Slots: ring(), Room: Room{20, 3}})
			for turn, a := range list {
				if worst := off(a.Shares(), pool); !a.Sampled && worst > bound.now {
					t.Errorf("%s, %d instances, turn %d: the worst share is %.1f %% off", name, n, turn, 100*worst)
				}
				checkSlots(t, a, pool, Room{20, 3})
			}
			got := overTurns(list)
			worst := off(got, pool)
			t.Logf("%s, %d instances: %.1f %% off", name, n, 100*worst)
			if worst > bound.turns {
				t.Errorf("%s, %d instances: the worst share is %.1f %% off over the turns", name, n, 100*worst)
			}
			if list[0].Sampled && name == "equal" {
				for first := 0; first < Turns; first += day {
					if worst := off(overTurns(list[first:first+day]), pool); worst > 0.07 {
						t.Errorf("%d equal instances: the worst share is %.1f %% off over %d turns", n, 100*worst, day)
					}
				}
			}
			for instance, share := range list[0].OverTurns() {
				if math.Abs(got[instance]/share-1) > 0.01 {
					t.Errorf("%s, %d instances: %s has %.4f over the turns, was told %.4f", name, n, instance, got[instance], share)
				}
			}
		}
	}
}

// checkSlots holds an assignment to what is true of any.
func checkSlots(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, a Assignment, pool []Candidate, room Room) {
	t.Helper()
	offered, instances := make(map[[32]byte]string), make(map[string]bool)
	for _, c := range pool {
		offered[c.Point.AuthKey] = c.Instance
	}
	for _, points := range a.Points {
		for _, c := range points {
			instances[c.Instance] = true
		}
	}
	for k, points := range a.Points {
		relays, keys, count := make(map[descriptor.Fingerprint]bool), make(map[[32]byte]bool), make(map[string]int)
		for _, c := range points {
			count[c.Instance]++
			if relays[c.Point.Relay()] || keys[c.Point.AuthKey] || offered[c.Point.AuthKey] == "" {
				t.Fatalf("slot %d: %s is there twice, or not offered", k, c.Instance)
			}
			if count[c.Instance] > max(room.PerInstance, 1) && len(instances) > 1 {
				t.Fatalf("slot %d: %d points of %s", k, count[c.Instance], c.Instance)
			}
			relays[c.Point.Relay()], keys[c.Point.AuthKey] = true, true
		}
		if len(points) > max(room.Points, 0) {
			t.Fatalf("slot %d: %d points, room for %d", k, len(points), room.Points)
		}
	}
}

// TestPlanForFew: few instances have all their points in every slot.
func TestPlanForFew(t *testing.T) {
	for n := 1; n <= 6; n++ {
		for _, slots := range [][]Slot{ring(), ring()[:1], ring()[3:4], append(ring()[:2], ring()[4:6]...)} {
			for _, s := range strategies {
				a := Assign(s, Request{Now: epoch, Candidates: many(n, equal), Slots: slots, Room: Room{20, 3}})
				for k, points := range a.Points {
					if len(points) != 3*n {
						t.Errorf("%s, %d instances: %d points in slot %d of %d", s.Name(), n, len(points), k, len(slots))
					}
				}
			}
		}
	}
}

// slotsOf counts the slots that clients ask and that have a point of each instance.
func slotsOf(a Assignment) map[string]int {
	count := make(map[string]int)
	for k, points := range a.Points {
		if a.Slots[k].Asked {
			for instance := range countByInstance(points) {
				count[instance]++
			}
		}
	}
	return count
}

// TestPlanCoversEverybody: up to 60 instances, each is still found when any one HSDir
// fails; up to 120, each stands somewhere; with more, each has its turns.
func TestPlanCoversEverybody(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 20, 21, 41, 60, 61, 120, 121, 200} {
		list := plans(Spread{}, Request{Now: epoch, Candidates: many(n, equal), Slots: ring(), Room: Room{20, 3}})
		turns := make(map[string]int)
		for _, a := range list {
			count := slotsOf(a)
			for instance := range count {
				turns[instance]++
			}
			if least := min(2, 120/n); n <= 120 && (len(count) != n || slices.Min(slices.Collect(maps.Values(count))) < least) {
				t.Errorf("%d instances: %d have a point, some in fewer than %d slots", n, len(count), least)
			}
			for k, points := range a.Points {
				if !a.Slots[k].Asked && len(points) < len(a.Points[0])-1 {
					t.Errorf("%d instances: %d points in reserve, beside %d", n, len(points), len(a.Points[0]))
				}
			}
		}
		if least := len(list) * min(120, n) / n; len(turns) != n || slices.Min(slices.Collect(maps.Values(turns))) < least {
			t.Errorf("%d instances: %d have turns, some fewer than %d", n, len(turns), least)
		}
	}
}

// TestPlanUsesAllPoints: an instance's clients spread over its points, since slots take
// different ones.
func TestPlanUsesAllPoints(t *testing.T) {
	for offered, want := range map[int]int{1: 1, 3: 3, 10: 6} {
		a := Assign(Spread{}, Request{Now: epoch, Candidates: separate(slices.Repeat([]int{offered}, 20)...), Slots: ring(), Room: Room{20, 3}})
		used := make(map[string]map[[32]byte]int)
		for k, points := range a.Points {
			for _, c := range points {
				if used[c.Instance] == nil {
					used[c.Instance] = make(map[[32]byte]int)
				}
				if a.Slots[k].Asked {
					used[c.Instance][c.Point.AuthKey]++
				}
			}
		}
		for instance, points := range used {
			counts := slices.Sorted(maps.Values(points))
			if len(points) != want || counts[len(counts)-1]-counts[0] > 1 {
				t.Errorf("%s offers %d points: in slots %v, want %d points alike", instance, offered, counts, want)
			}
		}
	}
}

// without is the pool without what an instance offers.
func without(pool []Candidate, instance string) []Candidate {
	return slices.DeleteFunc(slices.Clone(pool), func(c Candidate) bool { return c.Instance == instance })
}

// TestPlanMinimal: when one instance dies, its points go and nothing else moves: with 50 of
// them, that is in three slots at most. When nothing happens, nothing changes.
func TestPlanMinimal(t *testing.T) {
	for _, n := range []int{2, 7, 8, 21, 41, 50, 61, 120} {
		r := Request{Now: epoch, Candidates: many(n, equal), Slots: ring(), Room: Room{20, 3}}
		r.Slots = holding(Assign(Spread{}, r))
		for seed := range byte(3) {
			r.Seed[0], r.Turn, r.Refresh = seed+1, uint64(seed)+3, seed == 2
			if !sameHolds(holding(Assign(Spread{}, r)), r.Slots) {
				t.Fatalf("%d instances: nothing happened, and the plan changed", n)
			}
		}
		r.Refresh = false
		for i := 0; i < n; i += 1 + n/25 {
			if changed := dies(t, r, fmt.Sprintf("i%03d", i)); n >= 50 && changed > 3 {
				t.Errorf("one of %d dies: %d slots change", n, changed)
			}
		}
	}
}

// dies plans r without an instance, and returns how many of the slots that clients ask
// change. They only lose its points, and those in reserve keep the others'.
func dies(t *testing.T, r Request, dead string) (changed int) {
	t.Helper()
	theirs := make(map[[32]byte]bool)
	for _, c := range r.Candidates {
		theirs[c.Point.AuthKey] = c.Instance == dead
	}
	r.Candidates = without(r.Candidates, dead)
	for k, points := range Assign(Spread{}, r).Points {
		rest := slices.DeleteFunc(slices.Clone(r.Slots[k].Holds), func(key [32]byte) bool { return theirs[key] })
		kept := slices.DeleteFunc(keysOf(points), func(key [32]byte) bool { return !slices.Contains(rest, key) })
		if !slices.Equal(kept, rest) {
			t.Errorf("%s dies: others' points leave slot %d, or their places", dead, k)
		}
		if !r.Slots[k].Asked {
			continue
		}
		if len(points) != len(rest) {
			t.Errorf("%s dies: %d points are added to slot %d", dead, len(points)-len(rest), k)
		}
		if len(rest) < len(r.Slots[k].Holds) {
			changed++
		}
	}
	return changed
}

// TestPlanRefills: an instance that returns gets places again, and nobody gives up any
// for it.
func TestPlanRefills(t *testing.T) {
	for _, n := range []int{2, 5, 7, 12, 41, 50, 100, 120} {
		pool := many(n, equal)
		r := Request{Now: epoch, Candidates: pool, Slots: ring(), Room: Room{20, 3}}
		before := Assign(Spread{}, r)
		r.Slots = holding(before)
		r.Candidates = without(pool, "i001")
		r.Slots = holding(Assign(Spread{}, r))
		r.Candidates = slices.Clone(r.Candidates)
		for i := range 3 {
			r.Candidates = append(r.Candidates, candidate("i001", 2000+i, 2000+i))
		}
		after := Assign(Spread{}, r)
		for k, points := range after.Points {
			for _, key := range r.Slots[k].Holds {
				if !slices.Contains(keysOf(points), key) {
					t.Errorf("%d instances: another's point leaves slot %d", n, k)
				}
			}
		}
		if was, is := before.Shares()["i001"], after.Shares()["i001"]; is < 0.9*was {
			t.Errorf("%d instances: after the return it has %.3f of the clients, had %.3f", n, is, was)
		}
	}
}

// TestPlanEvensOut: what deaths leave uneven is evened out at a refresh, and at once
// when it is too much.
func TestPlanEvensOut(t *testing.T) {
	pool := many(41, equal)
	r := Request{Now: epoch, Candidates: pool, Slots: ring(), Room: Room{20, 3}}
	r.Slots = holding(Assign(Spread{}, r))
	r.Candidates = without(pool, "i007")
	r.Slots = holding(Assign(Spread{}, r))
	if n := len(r.Slots[0].Holds); n > 14 {
		t.Errorf("one death, and a slot has %d points", n)
	}
	r.Refresh = true
	a := Assign(Spread{}, r)
	if worst := off(a.Shares(), r.Candidates); worst > 0.001 || len(a.Points[0]) != 20 {
		t.Errorf("after a refresh, %d points and the worst share is %.1f %% off", len(a.Points[0]), 100*worst)
	}
	// All instances of one slot but two die: what is left of it is not what a client
	// should depend on.
	r.Slots, r.Refresh = holding(a), false
	for _, c := range a.Points[0][:18] {
		r.Candidates = without(r.Candidates, c.Instance)
	}
	a = Assign(Spread{}, r)
	if worst := off(a.Shares(), r.Candidates); worst > 0.1 {
		t.Errorf("18 of 40 die: the worst share is %.1f %% off", 100*worst)
	}
}

// TestRotation: of 200 instances, 120 have a place. Which ones changes at refreshes
// alone, and every one has its turns, whichever is the first. One that dies is
// replaced at once.
func TestRotation(t *testing.T) {
	pool := many(200, equal)
	for _, start := range []uint64{0, 5, 1 << 40} {
		r := Request{Now: epoch, Candidates: pool, Slots: ring(), Room: Room{20, 3}, Turn: start}
		list := plans(Spread{}, r)
		for n, a := range list {
			r.Slots, r.Turn = holding(a), start+uint64(n)+7
			if !a.Sampled || !sameHolds(holding(Assign(Spread{}, r)), r.Slots) {
				t.Fatal("instances take turns before a refresh")
			}
		}
		if worst := off(overTurns(list), pool); worst > 0.07 {
			t.Errorf("from turn %d, the worst share is %.1f %% off", start, 100*worst)
		}
		dead := list[Turns-1].Points[0][3]
		r.Candidates = without(pool, dead.Instance)
		a := Assign(Spread{}, r)
		if n := len(slotsOf(a)); n != 120 {
			t.Errorf("one died, and %d have a place", n)
		}
		for k := range a.Points {
			if !a.Slots[k].Asked {
				continue
			}
			for _, key := range keysOf(without(list[Turns-1].Points[k], dead.Instance)) {
				if !slices.Contains(keysOf(a.Points[k]), key) {
					t.Errorf("another's point left slot %d", k)
				}
			}
		}
	}
}

// TestFreshEnough: a published point stays until it is old and there is one that is
// enough younger; and a refresh is due.
func TestFreshEnough(t *testing.T) {
	now := epoch.Add(100 * time.Hour)
	for _, test := range []struct {
		what             string
		published, other time.Duration // ages; published is negative if it is not
		preferred        int           // of the other one
		refresh          bool
		replaced         bool
	}{
		{"young", 16 * time.Hour, time.Hour, 0, true, false},
		{"old", 18 * time.Hour, time.Hour, 0, true, true},
		{"old, and no refresh", 18 * time.Hour, time.Hour, 0, false, false},
		{"old, and the other hardly younger", 18 * time.Hour, 16 * time.Hour, 0, true, false},
		{"old, and the other not wanted", 18 * time.Hour, time.Hour, -1, true, false},
		{"young, and the other wanted", time.Hour, 10 * time.Hour, 1, true, true},
		{"young, and the other wanted, no refresh", time.Hour, 10 * time.Hour, 1, false, false},
		{"none published, the other younger", -18 * time.Hour, time.Hour, 0, false, true},
		{"none published, the other older", -time.Hour, 18 * time.Hour, 0, false, false},
		{"none published, the other older and wanted", -time.Hour, 18 * time.Hour, 1, false, true},
	} {
		pool := separate(2, 1)
		pool[0].FirstSeen = now.Add(-max(test.published, -test.published))
		pool[1].FirstSeen, pool[1].Preferred = now.Add(-test.other), test.preferred
		if test.published > 0 {
			pool[0].Place, pool[2].Place = 1, 2
		}
		for _, s := range []Strategy{Spread{}, Weighted{}, LeastLoaded{}} {
			for seed := range uint64(5) {
				r := Request{Now: now, Candidates: pool, Slots: []Slot{heldBy(pool)}, Room: Room{2, 1}, Seed: seedOf(seed), Refresh: test.refresh}
				got := keysOf(Assign(s, r).Points[0])
				if slices.Contains(got, pool[1].Point.AuthKey) != test.replaced || len(got) != 2 {
					t.Errorf("%s: %s: %v", s.Name(), test.what, got)
				}
			}
		}
	}
}

// TestPlanByAge: at a refresh, the strategy by age goes over to younger points; the one
// by long life stays.
func TestPlanByAge(t *testing.T) {
	pool := separate(2, 1)
	pool[0].Place, pool[2].Place = 1, 2
	pool[1].FirstSeen = epoch.Add(time.Hour)
	for _, s := range []Strategy{Freshest{}, LongestLived{}, Random{}} {
		r := Request{Now: epoch.Add(2 * time.Hour), Candidates: pool, Slots: []Slot{heldBy(pool)}, Room: Room{2, 1}, Refresh: true}
		if got := slices.Contains(keysOf(Assign(s, r).Points[0]), pool[1].Point.AuthKey); got != (s == Freshest{}) {
			t.Errorf("%s: goes over to the younger one: %v", s.Name(), got)
		}
	}
}

// TestPlanOneIdentity: two points with one RSA identity do not stand together, whatever
// else they say of their relays, since clients go by it.
func TestPlanOneIdentity(t *testing.T) {
	pool := offers([]int{1}, []int{1})
	for i := range pool {
		pool[i].Point.LinkSpecifiers = append(pool[i].Point.LinkSpecifiers, descriptor.LinkSpecifier{Type: descriptor.LinkEd25519, Data: []byte{31: byte(i)}})
	}
	for _, points := range Assign(Spread{}, Request{Candidates: pool, Slots: ring(), Room: Room{20, 3}}).Points {
		if len(points) != 1 {
			t.Errorf("%d points on one relay", len(points))
		}
	}
}

// TestLeastLoaded: who is told to have more to do gets fewer clients, within bounds.
func TestLeastLoaded(t *testing.T) {
	load := func(n float64) *float64 { return &n }
	for _, test := range []struct {
		loads []*float64
		want  []float64 // relative weights
	}{
		{[]*float64{nil, nil}, []float64{1, 1}},
		{[]*float64{load(1), load(1.1)}, []float64{1, 1}},
		{[]*float64{load(1), load(2)}, []float64{2, 1}},
		{[]*float64{load(1), load(3), nil}, []float64{2, 1 / math.Sqrt2, 1}},
		{[]*float64{load(0), load(1000), load(1)}, []float64{4, 0.25 * math.Sqrt2, 4}},
		{[]*float64{load(0), load(0)}, []float64{1, 1}},
		{[]*float64{load(math.NaN()), load(-1), load(math.Inf(1)), load(5)}, []float64{1, 1, 1, 1}},
	} {
		var list []Standing
		for i, l := range test.loads {
			list = append(list, Standing{Instance: fmt.Sprint(i), Weight: 3, Load: l})
		}
		wishes := LeastLoaded{}.Wish(list, epoch).Instances
		for i := range wishes {
			if got := wishes[i].Weight / wishes[0].Weight * test.want[0]; math.Abs(got-test.want[i]) > 1e-9 {
				t.Errorf("%d: instance %d has weight %.3f, want %.3f", len(list), i, got, test.want[i])
			}
		}
	}
}

// TestWeightsChange: a weight that the operator changes counts at once, a load at the
// next refresh; and what clients do not notice, not before it either.
func TestWeightsChange(t *testing.T) {
	for _, test := range []struct {
		s       Strategy
		weight  float64
		refresh bool
		want    float64 // the share of the first
	}{
		{Weighted{}, 3, false, 0.6},
		{Weighted{}, 1.1, false, 1.0 / 3},
		{LeastLoaded{}, 1, false, 1.0 / 3},
		{LeastLoaded{}, 1, true, 0.5},
	} {
		pool := separate(3, 3, 3)
		r := Request{Now: epoch, Candidates: pool, Slots: ring(), Room: Room{20, 3}}
		r.Slots = holding(Assign(test.s, r))
		r.Refresh = test.refresh
		for i := range pool {
			load := 20.0
			if pool[i].Instance == "a" {
				pool[i].Weight, load = test.weight, 10.0
			}
			pool[i].Load = &load
		}
		if got := Assign(test.s, r).Shares()["a"]; math.Abs(got-test.want) > 0.03 {
			t.Errorf("%s, weight %.1f, refresh %v: a share of %.2f, want %.2f", test.s.Name(), test.weight, test.refresh, got, test.want)
		}
	}
}

// TestWishes: what a strategy from outside may say.
func TestWishes(t *testing.T) {
	for _, test := range []struct {
		weights []float64
		want    string
	}{
		{[]float64{1, 1, 1}, "a b c"},
		{[]float64{1, 1}, "a b"},
		{nil, ""},
		{[]float64{1, 1, 1, 1}, "a b c"},
		{[]float64{math.NaN(), math.Inf(1), 1}, "c"},
		{[]float64{-1, 0, 0}, "a b c"},
		{[]float64{1e-300, 1e300, 0}, "a b"},
	} {
		a := Assign(say(test.weights), Request{Candidates: separate(3, 3, 3), Slots: ring(), Room: Room{20, 3}})
		turns := slices.Sorted(maps.Keys(a.OverTurns()))
		if got := fmt.Sprint(turns); got != "["+test.want+"]" {
			t.Errorf("%v: %s, want %s", test.weights, got, test.want)
		}
		if len(turns) > 0 && len(a.Points[0]) == 0 {
			t.Errorf("%v: no points", test.weights)
		}
	}
}

// say is a strategy that says these weights.
type say []float64

func (say) Name() string { return "say" }

func (s say) Wish([]Standing, time.Time) (w Wishes) {
	for _, weight := range s {
		w.Instances = append(w.Instances, Wish{Weight: weight})
	}
	return w
}

// TestPlan holds every strategy, on any ring, to what is true of any plan.
func TestPlan(t *testing.T) {
	for _, s := range strategies {
		t.Run(s.Name(), func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { anyPlan(t, s) }) })
	}
}

func anyPlan(t *rapid.T, s Strategy) {
	r := Request{Now: epoch.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "hours")) * time.Hour), Candidates: drawPool(t)}
	r.Room = Room{rapid.IntRange(0, 22).Draw(t, "limit"), rapid.IntRange(0, 8).Draw(t, "per instance")}
	r.Seed[0], r.Turn = rapid.Byte().Draw(t, "seed"), rapid.Uint64().Draw(t, "turn")
	for range rapid.IntRange(0, 8).Draw(t, "slots") {
		r.Slots = append(r.Slots, Slot{Replica: rapid.IntRange(1, 2).Draw(t, "replica"), Asked: rapid.IntRange(0, 3).Draw(t, "asked") > 0})
	}
	if rapid.Bool().Draw(t, "published before") {
		before := r
		before.Room = Room{rapid.IntRange(1, 20).Draw(t, "limit before"), rapid.IntRange(1, 8).Draw(t, "per instance before")}
		r.Slots = holding(Assign(Random{}, before))
		gone := rapid.SampledFrom(append(r.Candidates, Candidate{})).Draw(t, "gone")
		r.Candidates = slices.DeleteFunc(r.Candidates, func(c Candidate) bool { return c.Instance == gone.Instance })
		r.Refresh = rapid.Bool().Draw(t, "refresh")
	}
	given := slices.Clone(r.Candidates)
	a := Assign(s, r)
	if !reflect.DeepEqual(given, r.Candidates) {
		t.Fatal("the input was changed")
	}
	checkSlots(t, a, r.Candidates, r.Room)
	for k, points := range a.Points {
		if len(points) == 0 && len(r.Candidates) > 0 && r.Room.Points > 0 {
			t.Fatalf("slot %d has no points", k)
		}
		var kept [][32]byte
		for _, key := range keysOf(points) {
			if slices.Contains(r.Slots[k].Holds, key) {
				kept = append(kept, key)
			}
		}
		if want := slices.DeleteFunc(slices.Clone(r.Slots[k].Holds), func(key [32]byte) bool { return !slices.Contains(kept, key) }); !slices.Equal(kept, want) {
			t.Fatalf("what slot %d keeps changes places", k)
		}
	}
	r.Candidates = rapid.Permutation(given).Draw(t, "another order")
	if again := Assign(s, r); !reflect.DeepEqual(again, a) {
		t.Fatal("in another order, the plan is another")
	}
	r.Slots, r.Refresh, r.Seed[0], r.Turn = holding(a), false, r.Seed[0]+1, r.Turn+3
	if !sameHolds(holding(Assign(s, r)), r.Slots) {
		t.Fatal("nothing changed, and the plan did")
	}
}

// TestPlanNewcomer: an instance that comes takes no relay where a published point of
// another stands, as long as that one has as many points in the slot; neither when what is
// held is mended nor when all is laid out anew. Of Assign it is not quite true where relays
// are short: what it lays out anew it mends again, and an instance that first lost a place
// may then get one on another relay.
func TestPlanNewcomer(t *testing.T) {
	for _, s := range strategies {
		rapid.Check(t, func(t *rapid.T) {
			r := Request{Now: epoch.Add(5 * time.Hour), Candidates: drawPool(t), Slots: ring(), Room: Room{20, 3}}
			before := Assign(s, r)
			r.Slots = holding(before)
			// At a refresh, an instance whose points are preferred by age may leave a relay by itself.
			byAge := s.Wish(make([]Standing, 1), r.Now).Instances[0].Prefer != nil
			r.Refresh = !byAge && rapid.Bool().Draw(t, "refresh")
			for i := range rapid.IntRange(1, 20).Draw(t, "points") {
				c := candidate("newcomer", rapid.IntRange(1, 60).Draw(t, "relay"), 5000+i)
				c.FirstSeen = epoch.Add(4 * time.Hour)
				r.Candidates = append(r.Candidates, c)
			}
			p := newPlan(s, r)
			held := p.laidOut(p.held)
			for _, after := range []result{p.result(p.mend(held), false), p.result(p.anew(held), true)} {
				for k, points := range p.assignment(after).Points {
					checkNewcomer(t, k, before.Points[k], points)
				}
			}
		})
	}
}

func checkNewcomer(t *rapid.T, slot int, before, after []Candidate) {
	was, is := countByInstance(before), countByInstance(after)
	owner := make(map[descriptor.Fingerprint]string)
	for _, c := range before {
		owner[c.Point.Relay()] = c.Instance
	}
	for _, c := range after {
		if o := owner[c.Point.Relay()]; c.Instance == "newcomer" && o != "" && is[o] >= was[o] {
			t.Fatalf("slot %d: the newcomer has the relay of %s", slot, o)
		}
	}
}

func BenchmarkAssign(b *testing.B) {
	for _, n := range []int{3, 30, 200} {
		first := Request{Now: epoch, Candidates: many(n, equal), Slots: ring(), Room: Room{20, 3}}
		same, refresh := first, first
		same.Slots = holding(Assign(Spread{}, first))
		refresh.Slots, refresh.Refresh, refresh.Turn = same.Slots, true, 1
		for _, of := range []struct {
			what string
			Request
		}{{"first", first}, {"same", same}, {"refresh", refresh}} {
			b.Run(fmt.Sprintf("%d/%s", n, of.what), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Assign(Spread{}, of.Request)
				}
			})
		}
	}
}
