// Package offline keeps an identity key on a machine without a network.
//
// The manager makes descriptor-signing keys for many periods ahead and writes
// their public halves to a Request. Offline, whoever has the identity key signs
// a Bundle: for each key and period a certificate by that period's blinded key,
// and the key of the period's revision counters. Each Entry of a bundle carries
// a plain signature by the identity key, so that what travels on a stick is
// checked against the onion address and nothing else. The manager's Custodian
// then hands the certificates out, one period after the other, and never sees
// an identity secret or a blinded one.
//
// # How periods and certificates overlap
//
// On the public network a period lasts L = 24 h and begins at 12:00 UTC. A
// service has two descriptors at any time, and the one of a period P, from S to
// E = S + L, is
//
//   - first published L/2 before S, with the new shared random value at 00:00,
//     as the service's second descriptor;
//   - fetched by clients whose consensus is of P: from S until E, and for up to
//     three hours longer by those with a consensus that is about to end;
//   - last published L/2 after E, at the next shared random value. The HSDirs
//     keep it for three hours more.
//
// So a descriptor of P is made between S - L/2 and E + L/2 by the clock of the
// consensus, and may be looked at until E + L/2 + 3 h. The balancer makes a
// descriptor anew four hours before its certificate ends, which no custodian
// can do that has only one certificate for P. A certificate from a ceremony
// therefore ends at E + L/2 + 6 h, rounded up to the hour: 54 hours after it was
// first needed, as long as tor's own live. What that leaves:
//
//   - The manager's clock may be two hours ahead before the balancer thinks that
//     a certificate of the older period is ending. Behind does no harm at all:
//     certificates have no beginning.
//   - A client's clock may be 18 h ahead for as long as its consensus is of P,
//     and three hours in the last minute at which any HSDir has the descriptor.
//   - A ceremony that names the period P as its last keeps the service published
//     until E for everybody. P + 1 would have to be published from E - L/2 on:
//     that is when warnings become errors, half a period before it is too late.
//
// On a network with TestingTorNetwork a period is as long as a shared-random
// run, too, and all of this holds with its L. Where a period is not as long as
// a run (two times the offset), descriptors are published from S - L until
// E + min(L, run), and Schedule allows for that.
package offline
