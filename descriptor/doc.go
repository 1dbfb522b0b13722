// Package descriptor is the codec for version 3 onion-service descriptors and
// the public-key mathematics around them: addresses, time periods, key
// blinding, certificates, the three layers, introduction points and revision
// counters. It implements rend-spec-v3 and the parts of cert-spec that it
// needs, in both directions.
//
// The package touches no network, no file and no clock: the time, when it
// matters, is an argument, and so is every source of randomness. Of our own
// packages it uses internal/locked alone, which is as little of the world: the
// memory that identity secrets and blinded ones lie in, and what erases the
// traces of computing with them.
package descriptor
