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
//     a certificate of the older period is ending. It then looks for a better
//     one, says that there is none, and goes on with the one that it has. Behind
//     does no harm: certificates have no beginning.
//   - A client's clock may be 15 h ahead: the last that fetch a descriptor of P do
//     so three hours after E, with a consensus that is about to end, and hold the
//     certificate against their clock. In the very last minute at which an HSDir
//     has the descriptor, for whoever has a consensus that old, it is three hours.
//   - A ceremony that names P as its last period keeps the service published until
//     E for everybody. P + 1 would be published from E - L/2 on: that is when the
//     balancer begins to lack something, half a period before it is too late.
//
// On a network with TestingTorNetwork a period is as long as a shared-random
// run, too, and all of this holds with its L. Where a period is not as long as
// a run (two times the offset), descriptors are published from S - L until
// E + min(L, run), and Schedule allows for that.
package offline
