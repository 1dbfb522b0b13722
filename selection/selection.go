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
// Selection is stable, and the published descriptor is what makes it so: the
// caller says what each slot holds (Slot.Holds), and a strategy prefers
// them wherever it has no better reason to choose. A round whose candidates
// did not change yields the same points in the same order, whatever the random
// source says, and a point that comes or goes moves as few others as it can.
//
// Selection is deterministic: Assign gives the same for the same request, on
// every machine and whatever the order of the candidates. Strategies are pure: no
// clock, no state, no source of randomness but the one handed in.
package selection

import (
	"bytes"
	"cmp"
	"math/rand/v2"
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
	// finite number from 0 on, the same for all points of an instance. Only the
	// strategies "spread" and "weighted" read it; an instance of weight 0 gets
	// clients only when no instance has a weight.
	Weight float64
	// Point must not be nil. Strategies read it and never change it.
	Point *descriptor.IntroductionPoint
	// FirstSeen is when the point first stood in a descriptor of its instance, for
	// this period. Of two points that clients could not tell apart, the one that
	// was seen first counts.
	FirstSeen time.Time
	// Published is when the instance last published, as far as is known.
	Published time.Time
	// Place is the point's place in what is published now, counted from 1, or 0 if
	// it is not published. Assign sets it.
	Place int
}

// Room is how many introduction points there is room for.
type Room struct {
	Points      int // in the descriptor
	PerInstance int // of one instance, while there are several; at least 1
}

// A Strategy chooses the introduction points of one descriptor. Strategies are
// stateless and safe for concurrent use.
type Strategy interface {
	// Name is the strategy's name in the configuration.
	Name() string

	// Select returns at most as many of the candidates as there is room for, in
	// the order in which they go into the descriptor. No two of the returned share
	// a relay or a key, none is returned twice, and the input is left as it was. No
	// candidates, or no room, give none.
	//
	// The result depends on nothing but the arguments. When the candidates with
	// a Place are what an earlier Select of the same candidates returned, in
	// that order, it returns the same again, whatever random yields. The order
	// of the result does not follow the order of instances in the input.
	//
	// What an instance offers takes no point of the others out that is chosen, as
	// long as it offered any before.
	// Of more instances than room.Points, those that are published stay.
	Select(candidates []Candidate, room Room, random *rand.Rand) []Candidate
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
	Points [][]Candidate // by slot, in the order of the descriptor; read only, slots may share them
}

// Assign has s choose the points of every slot. All slots hold the same points.
func Assign(s Strategy, r Request) Assignment {
	candidates := slices.Clone(r.Candidates)
	for i := range candidates {
		c := &candidates[i] // two managers have no monotonic clock in common
		c.FirstSeen, c.Published = c.FirstSeen.Round(0), c.Published.Round(0)
	}
	slices.SortStableFunc(candidates, compareIdentity)
	mark(candidates, r.Slots)
	points := s.Select(candidates, r.Room, rand.New(rand.NewChaCha8(r.Seed)))
	return Assignment{Slots: slices.Clone(r.Slots), Points: slices.Repeat([][]Candidate{points}, len(r.Slots))}
}

// compareIdentity puts candidates into an order that follows from nothing but
// themselves.
func compareIdentity(a, b Candidate) int {
	if n := cmp.Or(cmp.Compare(a.Instance, b.Instance), bytes.Compare(a.Point.AuthKey[:], b.Point.AuthKey[:])); n != 0 {
		return n
	}
	// A point offered twice, in some other way.
	return cmp.Or(
		cmp.Compare(a.Point.Relay().String(), b.Point.Relay().String()),
		bytes.Compare(a.Point.EncKey[:], b.Point.EncKey[:]),
		bytes.Compare(a.Point.OnionKey[:], b.Point.OnionKey[:]),
		slices.CompareFunc(a.Point.LinkSpecifiers, b.Point.LinkSpecifiers, func(a, b descriptor.LinkSpecifier) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), bytes.Compare(a.Data, b.Data))
		}),
		a.Point.Expires.Compare(b.Point.Expires),
		a.FirstSeen.Compare(b.FirstSeen),
		a.Published.Compare(b.Published),
		cmp.Compare(a.Place, b.Place),
		cmp.Compare(a.Weight, b.Weight),
	)
}

// mark sets the Place of each candidate whose introduction point is published,
// and clears that of all others. Points are the same if their authentication keys
// are: certificates are renewed while a point stays what it is.
func mark(candidates []Candidate, slots []Slot) {
	place := make(map[[32]byte]int)
	next := 0
	for _, slot := range slots {
		for _, key := range slot.Holds {
			if next++; place[key] == 0 {
				place[key] = next
			}
		}
	}
	for i := range candidates {
		candidates[i].Place = place[candidates[i].Point.AuthKey]
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
