package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// life is one introduction point, from and to in minutes after 00:00 UTC of the
// day on which its descriptor is first made.
type life struct {
	instance int
	born     float64
	dies     float64
	budget   float64 // minutes of its instance's whole load that it takes; 0: any
	point    descriptor.IntroductionPoint
}

func (l *life) lives(t float64) bool { return l.born <= t && t < l.dies }

// fate is what ends points before tor does.
type fate struct {
	loss    float64 // part of the points whose circuit or relay is lost in an hour
	restart float64 // restarts of an instance in an hour: all its points end
	infant  float64 // part of the new points that end within an hour
	spent   float64 // minutes in which an instance's clients use up half of what a point takes; 0: never
}

// The descriptor's day: tor makes its points when the shared random value changes,
// clients ask for it from 12:00 on for a day.
const (
	dayBegins = 12 * hour
	dayEnds   = 36 * hour
)

// fleet is the instances of a service with their points.
type fleet struct {
	fate
	places   []place
	restarts [][]float64 // by instance, ascending
	all      []*life
}

// place is where an instance has one point after the other. Its chances are its own,
// so that they are the same whatever is published.
type place struct {
	random *rand.Rand
	now    *life
}

func newFleet(seed uint64, f fate, instances, points int) *fleet {
	fleet := &fleet{fate: f, restarts: make([][]float64, instances)}
	for i := range instances {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for t := next(r, f.restart); t < dayEnds; t += next(r, f.restart) {
			fleet.restarts[i] = append(fleet.restarts[i], t)
		}
		for range points {
			p := place{random: rand.New(rand.NewPCG(seed, 1<<32+uint64(len(fleet.places))))}
			p.now = fleet.bear(p.random, i, 0)
			fleet.places = append(fleet.places, p)
		}
	}
	return fleet
}

// bear makes a point: tor keeps one for 18 to 24 hours (or.h,
// INTRO_POINT_LIFETIME_MIN_SECONDS), unless something ends it before.
func (f *fleet) bear(r *rand.Rand, instance int, t float64) *life {
	l := &life{instance: instance, born: t, dies: t + 18*hour + r.Float64()*6*hour, point: somePoint(uint64(len(f.all)))}
	l.dies = min(l.dies, t+next(r, f.loss))
	if early, when := r.Float64(), r.Float64()*hour; early < f.infant {
		l.dies = min(l.dies, t+when)
	}
	l.budget = f.spent * (1 + r.Float64())
	for _, at := range f.restarts[instance] {
		if l.born < at && at < l.dies {
			l.dies = at
		}
	}
	f.all = append(f.all, l)
	return l
}

// step makes successors of the points that ended before t. use are the minutes of
// its instance's load that each point took since the last step.
func (f *fleet) step(t float64, use map[*life]float64) {
	for i := range f.places {
		p := &f.places[i]
		if l := p.now; f.spent > 0 && use[l] > 0 {
			if l.budget -= use[l]; l.budget <= 0 {
				l.dies = min(l.dies, t)
			}
		}
		if p.now.dies <= t {
			const circuit = 0.3 // minutes for it, and for an upload
			p.now = f.bear(p.random, p.now.instance, p.now.dies+circuit)
		}
	}
}

// offered are the points that live at t.
func (f *fleet) offered(t float64) (offered []*life) {
	for _, l := range f.all {
		if l.lives(t) {
			offered = append(offered, l)
		}
	}
	return offered
}

// next is the time in minutes to an event of that many in an hour.
func next(r *rand.Rand, rate float64) float64 {
	if rate == 0 {
		return 1e9
	}
	return r.ExpFloat64() / rate * hour
}

// somePoint is an introduction point on a relay of its own. Its keys say nothing of
// its age.
func somePoint(id uint64) (p descriptor.IntroductionPoint) {
	r := rand.New(rand.NewPCG(id, 1))
	for i := 0; i < len(p.AuthKey); i += 8 {
		binary.BigEndian.PutUint64(p.AuthKey[i:], r.Uint64())
	}
	p.LinkSpecifiers = []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: p.AuthKey[12:]}}
	return p
}

// midnight is minute 0.
var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func clock(t float64) time.Time {
	return midnight.Add(time.Duration(t * float64(time.Minute))).Truncate(time.Second)
}

// candidate is the point as the manager sees it.
func (l *life) candidate() selection.Candidate {
	return selection.Candidate{Instance: fmt.Sprintf("web%03d", l.instance), Weight: 1, Point: &l.point, FirstSeen: clock(l.born), Published: clock(l.born)}
}
