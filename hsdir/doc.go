// Package hsdir computes which HSDirs hold the descriptors of onion services,
// fetches descriptors from them and uploads descriptors to them.
//
// A Parser turns the consensus and the microdescriptors, as the control port
// of tor returns them, into a Consensus. A Consensus knows the time periods and
// shared random values in force, and has one hash Ring for the first and one
// for the second descriptor of every service (rend-spec-v3, section 2.2). A
// Ring names the HSDirs that are responsible for a blinded key. A Fetcher asks
// them for a descriptor, and an UploadQueue fills their slots with one.
//
// Which relays are in a ring, in what order, and the edge cases follow
// tor, since a descriptor on other HSDirs is not found: where tor
// and the specification differ, this package does as tor does.
//
// Nothing here reads a clock to decide what a moment means: relevant times
// come from the consensus or from arguments. Only timers use the clock.
package hsdir
