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
