package daemon

import (
	"os"
	"runtime/debug"
)

// garbagePercent is how much garbage there may be, of what is in use, before it is
// collected: less than a third of Go's default. A manager of thousands of services makes
// little garbage, and memory is what it runs short of first.
const garbagePercent = 30

// TuneMemory sets the garbage collector of the process, unless the environment
// does (GOGC).
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}
