package daemon

import (
	"os"
	"runtime/debug"
)

// garbagePercent is how much garbage there may be, of what is in use, before it is
// collected: half of Go's default. What a manager of thousands of services has in
// use is mostly small and changes rarely, and memory is what it runs short of first.
const garbagePercent = 50

// TuneMemory sets the garbage collector of the process, unless the environment
// does (GOGC).
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}
