// Package logging is the log of what runs for months. Nobody who logs waits for
// it: it may be closed, on a full disk, or a pipe that nobody reads. Its level
// and its format can be changed while it is in use.
package logging
