package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"onionbalancer/selection"
)

// group is instances of a service, with three points each.
type group struct {
	weights []float64
	points  []selection.Candidate
}

// weigh is a rule that gives instance i its weight.
type weigh func(i int) float64

func equal(int) float64        { return 1 }
func oneToThree(i int) float64 { return float64(1 + i%3) }
func oneHeavy(i int) float64 {
	if i == 0 {
		return 5
	}
	return 1
}

// uneven weights are spread over half to twice the usual one.
func uneven(i int) float64 { return math.Exp2(2*rand.New(rand.NewPCG(uint64(i), 5)).Float64() - 1) }

func newGroup(n int, w weigh) group {
	var g group
	for i := range n {
		g.weights = append(g.weights, w(i))
		for k := range 3 {
			l := life{instance: i, point: somePoint(uint64(3*i + k))}
			c := l.candidate()
			c.Weight = g.weights[i]
			g.points = append(g.points, c)
		}
	}
	return g
}

// without returns g after one instance is gone.
func (g group) without(i int) group {
	name := g.points[3*i].Instance
	return group{
		slices.Delete(slices.Clone(g.weights), i, i+1),
		slices.DeleteFunc(slices.Clone(g.points), func(c selection.Candidate) bool { return c.Instance == name }),
	}
}

// assign plans the slots of a descriptor that hold what slots say.
func (g group) assign(slots []selection.Slot, turn uint64, refresh bool) selection.Assignment {
	return selection.Assign(selection.Spread{}, selection.Request{Now: clock(0), Candidates: g.points, Slots: slots,
		Room: selection.Room{Points: 20, PerInstance: 3}, Turn: turn, Refresh: refresh})
}

// worst is how far the worst share is off what its weight says, in percent of that.
func (g group) worst(shares map[string]float64) (worst float64) {
	sum := 0.0
	for _, w := range g.weights {
		sum += w
	}
	for i, w := range g.weights {
		worst = max(worst, 100*math.Abs(shares[g.points[3*i].Instance]/(w/sum)-1))
	}
	return worst
}

// held returns the slots with what was assigned to them.
func held(a selection.Assignment) []selection.Slot {
	slots := slices.Clone(a.Slots)
	for i, points := range a.Points {
		slots[i].Holds = nil
		for _, c := range points {
			slots[i].Holds = append(slots[i].Holds, c.Point.AuthKey)
		}
	}
	return slots
}

// planned is what a plan for a number of instances comes to.
type planned struct {
	n                     int
	one, day, whole       float64 // worst error of a share, in the first edition, over aDay, over selection.Turns
	fewest, most          int     // points in a slot that clients ask
	distinct              int     // instances in such a slot, at least
	asked, askedDay       int     // instances that new clients reach, in an edition and over aDay
	deathChanged, deathBy float64 // slots changed by a death, and worst error after it, at most
	moved                 float64 // points that a refresh changes, mean
}

// aDay is as many refreshes as there are in a day.
const aDay = 16

func (g group) plan() planned {
	p := planned{n: len(g.weights), fewest: math.MaxInt, distinct: math.MaxInt}
	a := g.assign(slots(true), 0, true)
	p.one = g.worst(a.Shares())
	for i, slot := range a.Slots {
		if !slot.Asked {
			continue
		}
		names := make(map[string]bool)
		for _, c := range a.Points[i] {
			names[c.Instance] = true
		}
		p.fewest, p.most, p.distinct = min(p.fewest, len(a.Points[i])), max(p.most, len(a.Points[i])), min(p.distinct, len(names))
	}
	p.asked = len(a.Shares())
	p.deathChanged, p.deathBy = g.death(a)

	refreshes := aDay // not all that many where none changes anything
	if a.Sampled {
		refreshes = selection.Turns
	}
	sum, latest := a.Shares(), a
	for turn := 1; turn < refreshes; turn++ {
		before := held(latest)
		latest = g.assign(before, uint64(turn), true)
		for i, slot := range held(latest) {
			for _, key := range slot.Holds {
				if !slices.Contains(before[i].Holds, key) {
					p.moved += 1 / float64(refreshes-1)
				}
			}
		}
		for name, share := range latest.Shares() {
			sum[name] += share
		}
		if turn == aDay-1 {
			p.askedDay, p.day = len(sum), g.worst(mean(sum, aDay))
		}
	}
	p.whole = g.worst(mean(sum, refreshes))
	return p
}

// mean divides each of the sums by n.
func mean(sums map[string]float64, n int) map[string]float64 {
	shares := make(map[string]float64, len(sums))
	for name, sum := range sums {
		shares[name] = sum / float64(n)
	}
	return shares
}

// death has one instance die, of up to seven, and nothing be due otherwise.
func (g group) death(a selection.Assignment) (changed, worst float64) {
	n := len(g.weights)
	for i := 0; i < n && n > 1; i += n/7 + 1 {
		rest := g.without(i)
		after := rest.assign(held(a), 0, false)
		slots := 0.0
		for k, slot := range held(after) {
			if slot.Asked && !slices.Equal(slot.Holds, held(a)[k].Holds) {
				slots++
			}
		}
		changed, worst = max(changed, slots), max(worst, rest.worst(after.Shares()))
	}
	return changed, worst
}

// windows is what GoBalance publishes with distinct descriptors: all points in a row
// and of these the next 20 for each HSDir in turn, those of the first replica first,
// from the beginning again at the end (service.go, getRollingSubArr). It returns each
// instance's share, and how many nobody asks for.
func windows(n int) (shares []float64, unasked int) {
	shares = make([]float64, n)
	for _, slot := range []int{0, 1, 2, 4, 5, 6} { // the fourth of each replica is not asked
		for k := range 20 {
			shares[(slot*20+k)%(3*n)/3] += 1.0 / (6 * 20)
		}
	}
	for _, s := range shares {
		if s == 0 {
			unasked++
		}
	}
	return shares, unasked
}

// onionBalance is how many instances clients of OnionBalance 0.2.2 reach: it puts two
// points of each into one descriptor, which clients refuse when they are over 20.
func onionBalance(n int) int {
	if 2*n > 20 {
		return 0
	}
	return n
}

// spread is how uneven shares are that should be equal, in percent.
func spread(shares []float64) (worst float64) {
	for _, s := range shares {
		worst = max(worst, 100*math.Abs(s*float64(len(shares))-1))
	}
	return worst
}

const mostInstances = 200

func measureNumber(say progress) (figures, error) {
	instances := axis{Label: "instances of the service", From: 0, To: mostInstances}
	reached := chart{Name: "any-number-reached", Title: "Instances that new clients reach",
		X: instances, Y: axis{Label: "instances reached", From: 0, To: mostInstances}}
	shares := chart{Name: "any-number-shares", Title: "How far the worst share is off over time", X: instances, Y: axis{Label: "worst error of a share (%)"}}
	single := chart{Name: "any-number-edition", Title: "How far the worst share is off in one edition", X: instances, Y: axis{Label: "worst error of a share (%)", From: 0, To: 100}}
	day, one := series{Name: "balancer, over a day"}, series{Name: "balancer, one edition", Dashed: true}
	other, classic := series{Name: "GoBalance, one publication"}, series{Name: "OnionBalance 0.2.2"}
	shares.Series = []series{{Name: "equal, a day"}, {Name: "uneven, a day"}, {Name: "equal, four days", Dashed: true}, {Name: "uneven, four days", Dashed: true}}
	single.Series = []series{{Name: "equal"}, {Name: "uneven"}, {Name: "GoBalance, equal", Dashed: true}}

	plans := table{Name: "plans", Head: []string{"instances", "points in a descriptor", "instances in each", "worst share, one edition", "a day", "four days", "one dies: descriptors changed", "worst share then", "points changed by a refresh"}}
	weighted := table{Name: "weights", Head: []string{"weights", "instances", "worst share, one edition", "a day", "four days"}}
	compared := table{Name: "compared", Head: []string{"instances", "OnionBalance 0.2.2: not reached", "GoBalance: not reached, one publication", "worst share", "balancer: not reached, one edition", "a day", "worst share, a day"}}
	for n := 1; n <= mostInstances; n++ {
		e, u := newGroup(n, equal).plan(), newGroup(n, uneven).plan()
		say("%d instances: %.1f %%, in four days %.1f %%; uneven weights %.1f %%, %.1f %%", n, e.one, e.whole, u.one, u.whole)
		x := float64(n)
		rolling, unasked := windows(n)
		day.Add(x, float64(e.askedDay))
		one.Add(x, float64(e.asked))
		other.Add(x, float64(n-unasked))
		classic.Add(x, float64(onionBalance(n)))
		for i, y := range []float64{e.day, u.day, e.whole, u.whole} {
			shares.Series[i].Add(x, y)
		}
		for i, y := range []float64{e.one, u.one, spread(rolling)} {
			single.Series[i].Add(x, y)
		}
		death := f1(e.deathBy) + " %"
		if e.one > 99 { // not every instance is in an edition
			death = "over time"
		}
		if slices.Contains([]int{1, 3, 6, 7, 10, 13, 20, 21, 30, 41, 50, 60, 61, 80, 100, 120, 150, 200}, n) {
			plans.Add(n, span(e.fewest, e.most), e.distinct, f1(e.one)+" %", f1(e.day)+" %", f1(e.whole)+" %", f0(e.deathChanged)+" of 6", death, f0(e.moved))
		}
		if slices.Contains([]int{3, 10, 11, 20, 30, 41, 60, 100, 120, 200}, n) {
			compared.Add(n, n-onionBalance(n), unasked, f0(spread(rolling))+" %", n-e.asked, n-e.askedDay, f1(e.day)+" %")
		}
	}
	for _, w := range []struct {
		name string
		weigh
	}{{"1, 2, 3 in turn", oneToThree}, {"0.5 to 2, at random", uneven}, {"one of 5, the others 1", oneHeavy}} {
		for _, n := range []int{5, 10, 20, 50, 100, 200} {
			say("%d instances of weights %s", n, w.name)
			p := newGroup(n, w.weigh).plan()
			weighted.Add(w.name, n, f1(p.one)+" %", f1(p.day)+" %", f1(p.whole)+" %")
		}
	}
	reached.Series = []series{day, one, other, classic}
	return figures{[]table{plans, compared, weighted}, []chart{reached, shares, single}}, nil
}

func span(least, most int) string {
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}
