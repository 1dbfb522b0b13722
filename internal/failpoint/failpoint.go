// Package failpoint lets tests stop a balancer's process at one point of its work, as a
// machine does that is suspended or swaps, and set its clock. Only a program built with the
// tag failpoints has any of it.
package failpoint

// The points, in the order in which an edition of a service passes them.
const (
	Plan   = "plan"   // a service is about to plan
	Swap   = "swap"   // what it planned is about to be stored
	Upload = "upload" // it is stored, and about to be handed to the upload queue
	Queued = "queued" // an upload has left the queue, and is about to be made
	Post   = "post"   // it was made, and is about to be handed to tor
)

// Points are all of them.
var Points = []string{Plan, Swap, Upload, Queued, Post}

// Directory and Skew name what the environment of a process says: the directory in which
// the file NAME has the process stop itself with SIGSTOP when it reaches that point next,
// and is renamed to NAME.reached before; and by how much its clock is ahead.
const (
	Directory = "BALANCER_FAILPOINTS"
	Skew      = "BALANCER_SKEW"
)
