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
// The package imports nothing else of this module. Reconnection, deadlines and
// pauses use timers only, so a client whose Config.Dial returns the end of a
// net.Pipe runs in virtual time inside a testing/synctest bubble.
package control
