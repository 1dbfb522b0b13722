// Package hsdir answers where the descriptors of onion services live, takes
// them from there and puts them there.
//
// A Parser turns the consensus and the microdescriptors, as the control port
// of tor gives them, into a Consensus. A Consensus knows the time periods and
// shared random values that hold, and has one hash Ring for the first and one
// for the second descriptor of every service (rend-spec-v3, section 2.2). A
// Ring names the HSDirs that are responsible for a blinded key. A Fetcher asks
// them for a descriptor, and an UploadQueue fills their slots with one.
//
// Which relays are in a ring, in what order, and what happens at the edges is
// tor's choice, for a descriptor that lies elsewhere is not found: where tor
// and the specification differ, this package does as tor does.
//
// Nothing here reads a clock to decide what a moment means: times that matter
// come out of the consensus or in as arguments. Timers alone use the clock.
package hsdir
