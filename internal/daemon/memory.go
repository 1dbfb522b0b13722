package daemon

import (
	"os"
	"runtime/debug"
)

// garbagePercent is how much garbage there may be, relative to live memory, before it is
// collected: half of Go's default. The live memory of a manager of thousands of services
// is mostly small objects that change rarely, and memory is its scarcest resource.
const garbagePercent = 50

// TuneMemory sets the garbage collector of the process, unless the environment
// does (GOGC).
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}
