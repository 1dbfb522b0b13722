// Package selection chooses, out of the introduction points of a service's
// instances, those that go into its descriptors, and their order.
//
// Clients decide the design. A client picks one of the introduction points of a
// descriptor uniformly at random; the share of clients that an instance gets is
// the share of the points that are its own. Two points on the same relay shadow
// each other: whichever of them the client picked, it introduces itself to the
// first in the descriptor. A shadowed point reaches nobody, not even after the
// first has failed, so no strategy ever chooses two points on one relay. Shares
// computes what a list of points comes to.
//
// A strategy says what each instance should get (Wishes); the planner deals: how
// many points of which instance each slot holds, and which. Slots may hold
// different points, since a client asks one of them and each is as likely. So there
// are as many places as all slots have together, shares come out finer, and an
// instance's clients spread over all its points.
//
// The plan is stable, and what is published makes it so: the caller says what each
// slot holds (Slot.Holds). Nothing changes without a cause: a request of which
// only the seed and the turn are others yields the same points in the same order.
// When an instance dies or comes back, only its own points go or come. The rest is
// evened out when a new descriptor is due anyway (Request.Refresh).
//
// Selection is deterministic: Assign gives the same for the same request, on
// every machine and whatever the order of the candidates. Strategies are pure: no
// clock, no state, no source of randomness.
package selection

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// Candidate is one introduction point of one instance, with what is known of
// its age and of its instance. The zero value of every field but Point is
// usable.
type Candidate struct {
	// Instance is the instance's name, unique within the service.
	Instance string
	// Weight is the instance's share of the clients relative to the others', a
	// finite number from 0 on, the same for all points of an instance. Whether it
	// counts is up to the strategy (Weighs).
	Weight float64
	// Load is what the instance was last told to be loaded with, in any unit that the
	// instances have in common; nil if nobody told.
	Load *float64
	// Point must not be nil. Strategies read it and never change it.
	Point *descriptor.IntroductionPoint
	// FirstSeen is when the point first stood in a descriptor of its instance, for
	// this period. Of two points that clients could not tell apart, the one that
	// was seen first counts.
	FirstSeen time.Time
	// Published is when the instance last published, as far as is known.
	Published time.Time
	// Preferred is how much the operator wants points like this one: of two points
	// of an instance, the one with more is taken.
	Preferred int
	// Place is the point's first place in what the slots hold, counted from 1 over
	// all of them, or 0 if none holds it. Assign sets it.
	Place int
}

// Room is how many introduction points there is room for.
type Room struct {
	Points      int // in the descriptor
	PerInstance int // of one instance, while there are several; less than 1 is 1
}

// Slot is one place that a descriptor goes to: an HSDir, for one replica.
type Slot struct {
	Replica int  // from 1
	Asked   bool // clients ask it, as long as the ring stays as it is
	// Holds are the authentication keys of the introduction points that the slot has
	// now, in their order; empty if it has nothing yet.
	Holds [][32]byte
}

// Request is all that an assignment depends on.
type Request struct {
	Now        time.Time
	Candidates []Candidate // in any order
	Slots      []Slot
	Room       Room // in each descriptor
	// Seed determines the random choices: which of equally good points are chosen,
	// and the order of new ones. With it, a guess at which points belong to one
	// instance can be checked against the published order. So it should not follow
	// from public facts alone.
	Seed [32]byte
	// Turn counts the refreshes of the descriptor: shares that no single assignment
	// can give come out over many turns.
	Turn uint64
	// Refresh says that a new descriptor is due whatever is assigned. Otherwise
	// only what has to change does.
	Refresh bool
}

// Assignment says which points each slot holds.
type Assignment struct {
	Slots  []Slot
	Points [][]Candidate // by slot, in the order of the descriptor; read only
	// Sampled says that the shares do not come out in any one assignment but over
	// Turns of them, see OverTurns.
	Sampled bool
	Why     string             // how the numbers of points came about, for people to read
	mean    map[string]float64 // shares over Turns; nil unless Sampled
}

// Assign chooses the points of every slot as s wishes. It changes nothing of r.
func Assign(s Strategy, r Request) Assignment {
	first := newPlan(s, r)
	if len(first.parties) == 0 || len(r.Slots) == 0 || first.quota.limit == 0 {
		return Assignment{Slots: slices.Clone(r.Slots), Points: make([][]Candidate, len(r.Slots)), Why: "there is nothing to choose from"}
	}
	last, best := first.settled()
	a := last.assignment(best)
	a.Slots = slices.Clone(r.Slots)
	if last != first {
		places := placesIn(r.Slots)
		for k, points := range a.Points {
			for n := range points {
				points[n].Place = places[points[n].Point.AuthKey]
			}
			inPlace(points, r.Slots[k].Holds)
		}
	}
	return a
}

// inPlace puts the points that a slot held back into the order that they had there: one that
// went may have come again.
func inPlace(points []Candidate, holds [][32]byte) {
	var at []int
	var held []Candidate
	for n, c := range points {
		if slices.Contains(holds, c.Point.AuthKey) {
			at, held = append(at, n), append(held, c)
		}
	}
	slices.SortFunc(held, func(a, b Candidate) int {
		return cmp.Compare(slices.Index(holds, a.Point.AuthKey), slices.Index(holds, b.Point.AuthKey))
	})
	for n, c := range held {
		points[at[n]] = c
	}
}

// Shares returns the part of the clients, 0 to 1, that each instance can expect:
// the mean over the slots that clients ask, or over all if they ask none.
func (a Assignment) Shares() map[string]float64 {
	var asked [][]Candidate
	for i, slot := range a.Slots {
		if slot.Asked {
			asked = append(asked, a.Points[i])
		}
	}
	if len(asked) == 0 {
		asked = a.Points
	}
	return Shares(asked...)
}

// OverTurns returns the part of the clients, 0 to 1, that each instance can expect over
// Turns refreshes.
func (a Assignment) OverTurns() map[string]float64 {
	if a.mean == nil {
		return a.Shares()
	}
	return maps.Clone(a.mean)
}

// Shares returns the part of the clients, 0 to 1, that each instance can expect
// when each of the descriptors, with these points in this order, is as likely to
// be read. Every instance among the points has an entry, 0 if all its points are
// shadowed. A descriptor without points counts, and gives nobody clients.
func Shares(descriptors ...[]Candidate) map[string]float64 {
	shares := make(map[string]float64)
	first := make(map[descriptor.Fingerprint]string) // relay to the instance that clients reach there
	for _, points := range descriptors {
		clear(first)
		for _, c := range points {
			relay := c.Point.Relay()
			if _, taken := first[relay]; !taken {
				first[relay] = c.Instance
			}
			shares[c.Instance] += 0
			shares[first[relay]] += 1 / float64(len(points)*len(descriptors))
		}
	}
	return shares
}
