// Package control is a client of tor's control port (control-spec), on top of
// github.com/cretz/bine/control.
//
// A [Client] holds two authenticated connections to one tor. Commands go over
// the first, one at a time, each with a deadline. Events come over the second,
// whose reader hands them on without ever waiting for anybody: bine, left to
// itself, deadlocks when both share a connection. When either is lost, both
// are closed, everything that was waiting fails with [ErrNotConnected], and
// the client connects again, with a growing pause, and asks for its events
// anew.
//
// Whoever binds the control port while tor is down is taken for tor unless it has
// to prove what only tor knows. So a cookie is never sent but proved (SAFECOOKIE),
// a control port that wants no authentication must be a unix socket in a place
// that is tor's alone, and a file that the other side names is not just read.
//
// Reconnection, deadlines and
// pauses use timers only, so a client whose Config.Dial returns the end of a
// net.Pipe runs in virtual time inside a testing/synctest bubble.
package control
