// Package check checks instances through Tor: single checks of each kind, and a Runner
// that makes them in each instance's own rhythm and has package health judge them.
package check
