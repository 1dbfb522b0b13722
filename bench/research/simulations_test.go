package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"onionbalancer/selection"
)

// TestVisitorsOfADay checks the simulation of points and clients where the outcome is
// known, and that it tells strategies apart.
func TestVisitorsOfADay(t *testing.T) {
	quiet := trial{setting{crowd: crowd{300, 6 * hour, 30}}, 10, 1, false}
	m := quiet.run(choices[4])
	for h, n := range m.byHour {
		if dead := n.dead > 0; n.visits == 0 || dead && h < 6 {
			t.Errorf("hour %d: %v; points that nothing ends live 18 hours", h, n)
		}
	}
	if m.dead == 0 || m.failed > 0 || m.editions == 0 || m.editions > 40 || m.came < 10 {
		t.Errorf("a day without losses: %+v", m)
	}
	short := trial{setting{fate: calm, crowd: crowd{600, 6 * hour, 30}}, 20, 2, false}
	longest := short.run(choices[0])
	fresh := short.run(choices[4])
	if longest.per1000(longest.dead) < 1.4*fresh.per1000(fresh.dead) {
		t.Errorf("the longest-lived meet %.0f dead points, fresh enough %.0f", longest.per1000(longest.dead), fresh.per1000(fresh.dead))
	}
}

// TestFleetSpends ends points by their load, and only those that are used.
func TestFleetSpends(t *testing.T) {
	f := newFleet(1, fate{spent: 60}, 1, 2)
	used, idle := f.places[0].now, f.places[1].now
	for minute := range 200 {
		f.step(float64(minute), map[*life]float64{used: 1})
	}
	if used.dies < 60 || used.dies > 121 || idle.dies < 18*hour || len(f.all) != 3 {
		t.Errorf("used until %v, idle until %v, %d points", used.dies, idle.dies, len(f.all))
	}
}

// TestServing has as many instances as points serve alike, and more in turns.
func TestServing(t *testing.T) {
	for _, day := range serving(1, 3, 3, 2) {
		if off([][]float64{day}) > 1e-6 {
			t.Errorf("three instances with three points: %v", day)
		}
	}
	days := serving(1, 12, 3, 8)
	if day, week := off(days[:1]), off(days); day < 100 || week >= day {
		t.Errorf("twelve instances with three points are %.0f %% off in a day, %.0f %% in eight", day, week)
	}
}

// TestClientsGoOn has clients meet what they should: each dead point once in two
// minutes, and a new descriptor when none is left.
func TestClientsGoOn(t *testing.T) {
	dead := &life{born: 0, dies: 1}
	live := &life{instance: 1, born: 0, dies: 1e9}
	c := crowd{200, 1e9, 30}
	for _, test := range []struct {
		name                    string
		editions                []edition
		dead, refetched, failed bool
	}{
		{"one live", []edition{{asked: [][]*life{{live}}}}, false, false, false},
		{"one of two dead", []edition{{asked: [][]*life{{live, dead}}}}, true, false, false},
		{"all dead, then live", []edition{{asked: [][]*life{{dead}}}, {at: 20 * hour, asked: [][]*life{{live}}}}, true, true, true},
	} {
		var m met
		c.visit(rand.New(rand.NewPCG(1, 1)), test.editions, &m)
		if m.dead > 0 != test.dead || m.refetched > 0 != test.refetched || m.failed > 0 != test.failed || m.dead > m.visits {
			t.Errorf("%s: %+v", test.name, m)
		}
	}
}

// TestOthersByHand counts the shares of the other programs' rules.
func TestOthersByHand(t *testing.T) {
	for n, want := range map[int]int{1: 0, 20: 0, 40: 0, 41: 6, 120: 79} {
		shares, unasked := windows(n)
		sum := 0.0
		for _, s := range shares {
			sum += s
		}
		if n != 40 && unasked != want || math.Abs(sum-1) > 1e-9 {
			t.Errorf("%d instances: %d are not asked for, want %d; shares sum to %v", n, unasked, want, sum)
		}
	}
	if onionBalance(10) != 10 || onionBalance(11) != 0 {
		t.Error("eleven instances are 22 points, which clients refuse")
	}
}

// TestGroups checks how errors are counted, and that a plan serves everybody.
func TestGroups(t *testing.T) {
	g := newGroup(2, oneHeavy)
	if off := g.worst(map[string]float64{"web000": 5.0 / 6, "web001": 1.0 / 6}); off > 1e-9 {
		t.Errorf("shares by weight are off by %v %%", off)
	}
	if off := g.worst(map[string]float64{"web000": 1}); math.Abs(off-100) > 1e-9 {
		t.Errorf("a share of none is off by %v %%", off)
	}
	p := newGroup(30, equal).plan()
	if p.asked != 30 || p.askedDay != 30 || p.most > 20 || p.deathChanged > 6 || p.one > 8 {
		t.Errorf("30 instances: %+v", p)
	}
	rest := newGroup(3, oneToThree).without(1)
	if len(rest.points) != 6 || rest.weights[1] != 3 || rest.points[3].Instance != "web002" {
		t.Errorf("without the second: %v, %v", rest.weights, rest.points)
	}
}

// TestDecoysMet compares the formula with one draw after the other.
func TestDecoysMet(t *testing.T) {
	var draw func(decoys, live float64) float64
	draw = func(decoys, live float64) float64 {
		if decoys == 0 {
			return 0
		}
		return decoys / (decoys + live) * (1 + draw(decoys-1, live))
	}
	for decoys := range 18 {
		for live := 1; live < 9; live++ {
			if got, want := decoysMet(decoys, live), draw(float64(decoys), float64(live)); math.Abs(got-want) > 1e-9 {
				t.Errorf("%d decoys and %d live points: %v, want %v", decoys, live, got, want)
			}
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, test := range []struct {
		k, n    int
		p, want float64
	}{{0, 7, 0.3, 1}, {1, 3, 0.5, 0.875}, {3, 3, 0.5, 0.125}, {1, 1, 1, 0}, {2, 3, 0, 1}} {
		if got := atLeast(test.k, test.n, test.p); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("at least %d of %d at %v: %v, want %v", test.k, test.n, test.p, got, test.want)
		}
	}
}

// TestStrategiesOfOurOwn are those that only the simulation has.
func TestStrategiesOfOurOwn(t *testing.T) {
	points := newGroup(1, equal).points
	points[2].Place = 1
	standing := []selection.Standing{{Instance: "web000", Points: points}}
	prefer := kept{}.Wish(standing, clock(0)).Instances[0].Prefer
	if prefer(points[2], points[0]) >= 0 || prefer(points[0], points[2]) <= 0 || prefer(points[0], points[0]) != 0 {
		t.Error("what is published is not kept")
	}
	before, after := (&changing{1}).Wish(standing, clock(0)).Instances[0].Prefer, 0
	for salt := range uint64(20) {
		if other := (&changing{salt}).Wish(standing, clock(0)).Instances[0].Prefer; before(points[0], points[1]) != other(points[0], points[1]) {
			after++
		}
	}
	if after == 0 {
		t.Error("the order does not change with the salt")
	}
}
