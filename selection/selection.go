// Package selection chooses, out of the introduction points of a service's
// instances, those that go into one descriptor, and their order.
//
// What decides the design is how clients use a descriptor. A client picks one
// of its introduction points uniformly at random; the share of clients that an
// instance gets is the share of the points that are its own. Two points on the
// same relay shadow each other: whichever of them the client picked, it
// introduces itself to the first in the descriptor. A shadowed point reaches
// nobody, not even after the first has failed, so no strategy ever chooses two
// points on one relay. Shares computes what a list of points comes to.
//
// Selection is stable, and the published descriptor is what makes it so: the
// caller marks the candidates that stand in it (Mark), and a strategy prefers
// them wherever it has no better reason to choose. A round whose candidates
// did not change yields the same points in the same order, whatever the random
// source says, and a point that comes or goes moves as few others as it can.
//
// Strategies are pure: no clock, no state, no source of randomness but the one
// handed in.
package selection

import (
	"math/rand/v2"
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
	// strategy "weighted" reads it; an instance of weight 0 gets clients only
	// when no instance has a weight.
	Weight float64
	// Point must not be nil. Strategies read it and never change it.
	Point *descriptor.IntroductionPoint
	// FirstSeen is when the point first stood in a descriptor of its instance, for
	// this period. Of two points that clients could not tell apart, the one that
	// was seen first counts.
	FirstSeen time.Time
	// Published is when the instance last published, as far as is known.
	Published time.Time
	// Place is the point's place in the descriptor that is published now,
	// counted from 1, or 0 if it is not in it. Mark sets it.
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
	// Name is what the configuration calls the strategy.
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

// Mark sets the Place of each candidate whose introduction point is among
// published, the points of the descriptor that is out now in their order, and
// clears that of all others. Points are the same if their authentication keys
// are: certificates are renewed while a point stays what it is.
func Mark(candidates []Candidate, published []descriptor.IntroductionPoint) {
	place := make(map[[32]byte]int, len(published))
	for i := range published {
		if key := published[i].AuthKey; place[key] == 0 {
			place[key] = i + 1
		}
	}
	for i := range candidates {
		candidates[i].Place = place[candidates[i].Point.AuthKey]
	}
}

// Shares returns the part of the clients, 0 to 1, that each instance can expect
// from a descriptor with these points in this order. Every instance among the
// points has an entry, 0 if all its points are shadowed.
func Shares(points []Candidate) map[string]float64 {
	shares := make(map[string]float64)
	first := make(map[string]string, len(points)) // relay to the instance that clients reach there
	for _, c := range points {
		relay := c.Point.Relay()
		if _, taken := first[relay]; !taken {
			first[relay] = c.Instance
		}
		shares[c.Instance] += 0
		shares[first[relay]] += 1 / float64(len(points))
	}
	return shares
}
