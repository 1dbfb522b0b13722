// Package logging is the log of a long-running daemon. Logging never blocks:
// the output may be closed, a full disk, or a blocked pipe. Its level
// and its format can be changed while it is in use.
package logging
