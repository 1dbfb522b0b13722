package main

import (
	"encoding/binary"
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
	point    descriptor.IntroductionPoint
}

func (l *life) lives(t float64) bool { return l.born <= t && t < l.dies }

// fate is what ends points before tor does.
type fate struct {
	loss    float64 // part of the points whose circuit or relay is lost in an hour
	restart float64 // restarts of an instance in an hour: all its points end
	spent   float64 // minutes in which half the introductions that a point takes are made; 0: never
	infant  float64 // part of the new points that end within an hour
}

// The descriptor's day: tor makes its points when the shared random value changes,
// clients ask for it from 12:00 on for a day.
const (
	dayBegins = 12 * hour
	dayEnds   = 36 * hour
)

// fleet returns the points of n instances, so many at a time each, until clients
// stop asking. A point lives 18 to 24 hours (hs_service.c, get_intro_point_max_lifetime
// and its minimum), and its successor is made at once.
func (f fate) fleet(r *rand.Rand, n, points int) (all []*life) {
	for instance := range n {
		restarts := []float64{}
		for t := next(r, f.restart); t < dayEnds; t += next(r, f.restart) {
			restarts = append(restarts, t)
		}
		for range points {
			for t := 0.0; t < dayEnds; {
				l := &life{instance: instance, born: t, dies: t + 18*hour + r.Float64()*6*hour}
				l.dies = min(l.dies, t+next(r, f.loss))
				if f.spent > 0 {
					l.dies = min(l.dies, t+f.spent*(1+r.Float64()))
				}
				if r.Float64() < f.infant {
					l.dies = min(l.dies, t+r.Float64()*hour)
				}
				t = l.dies + 0.3 // minutes for a circuit and an upload
				for _, at := range restarts {
					if l.born < at && at < l.dies {
						l.dies, t = at, at+1
						break
					}
				}
				l.point = somePoint(uint64(len(all)))
				all = append(all, l)
			}
		}
	}
	return all
}

// next is the time in minutes to an event of that many in an hour.
func next(r *rand.Rand, rate float64) float64 {
	if rate == 0 {
		return 1e9
	}
	return r.ExpFloat64() / rate * hour
}

// somePoint is an introduction point on a relay of its own.
func somePoint(id uint64) descriptor.IntroductionPoint {
	var p descriptor.IntroductionPoint
	mixed := rand.New(rand.NewPCG(id, 1)) // so that keys sort in no order of age
	for i := 0; i < 32; i += 8 {
		binary.BigEndian.PutUint64(p.AuthKey[i:], mixed.Uint64())
	}
	binary.BigEndian.PutUint64(p.AuthKey[24:], id)
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
	name := string(binary.BigEndian.AppendUint16([]byte("web"), uint16(l.instance)))
	return selection.Candidate{Instance: name, Weight: 1, Point: &l.point, FirstSeen: clock(l.born), Published: clock(l.born)}
}
