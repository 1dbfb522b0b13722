package advice

import (
	"cmp"
	"maps"
	"time"

	"onionbalancer/selection"
)

// Told is the strategy that a program's answer comes to. Without an answer it does as
// selection.Spread does.
type Told struct {
	program string
	weights map[string]float64 // by instance
	prefer  map[key]float64    // by authentication key
	given   bool               // there is an answer
}

func toldOf(program string, a Answer, q Question) Told {
	t := Told{program: program, weights: a.Weights, prefer: make(map[key]float64, len(a.Prefer)), given: true}
	for id, preference := range a.Prefer {
		t.prefer[q.points[id]] = preference
	}
	return t
}

// Untold is the strategy of a program that has said nothing.
func Untold(program string) Told { return Told{program: program} }

// Drops reports whether the program gives an instance no clients.
func (t Told) Drops(instance string) bool {
	weight, told := t.weights[instance]
	return told && weight == 0
}

func (t Told) equal(other Told) bool {
	return t.given == other.given && maps.Equal(t.weights, other.weights) && maps.Equal(t.prefer, other.prefer)
}

// Name implements selection.Strategy.
func (t Told) Name() string { return Prefix + t.program }

// Wish implements selection.Strategy.
func (t Told) Wish(instances []selection.Standing, now time.Time) selection.Wishes {
	w := selection.Spread{}.Wish(instances, now)
	w.AtRefresh = t.given // a program may have other weights every minute
	for n, i := range instances {
		if weight, told := t.weights[i.Instance]; told {
			w.Instances[n].Weight = weight
		}
		if len(t.prefer) > 0 {
			w.Instances[n].Prefer = t.compare
		}
	}
	return w
}

// compare sorts what the program prefers first.
func (t Told) compare(a, b selection.Candidate) int {
	return cmp.Compare(t.prefer[b.Point.AuthKey], t.prefer[a.Point.AuthKey])
}
