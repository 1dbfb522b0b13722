// Package hosting has the figures of a simulated month of shared hosting: ten thousand
// services on shards of two replicas, over several tors. The simulation is a test of
// internal/balance, in virtual time; the program in bench/hosting/run has it measure, and
// writes the section of doc/hosting.md.
package hosting

// Mark begins the line on which the test prints a Result.
const Mark = "hosting: "

// Result is what one run measured.
type Result struct {
	Customers, Shards, Tors int
	Days                    float64

	CPU     float64 // milliseconds for each customer and hour, signing and encoding left out
	Uploads float64 // for each customer and hour
	Rounds  float64 // plans, for each customer and hour

	Oldest      float64 // age of the oldest descriptor that a client could get, minutes
	Unreachable int     // customers without a live introduction point while a replica lived, at one time or another
	Spell       float64 // the longest time of one, seconds
	PerSecond   int     // uploads begun through one tor in one second, at most
	PerMinute   int     // and in one minute
	Rate        int     // what publish_rate allows in a second through each tor, in the long run

	ReplicaFailures, TorFailures, PointsEnded, Failed int // Failed: uploads that did not arrive

	Day []Minute `json:",omitempty"` // a day, from 00:00 UTC, in steps of StepMinutes
}

// StepMinutes is how far the Minutes of a Result are apart.
const StepMinutes = 10

// Minute is a moment of the day that the charts show.
type Minute struct {
	Uploads float64 // a second, through all tors
	Oldest  float64 // age in minutes
}
