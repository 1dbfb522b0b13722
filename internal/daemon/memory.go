package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
)

// garbagePercent is how much garbage there may be, of what is in use, before it is
// collected: a tenth of Go's default. A manager of thousands of services makes
// little garbage, and memory is what it runs short of first.
const garbagePercent = 10

// ballast is never touched, so that it takes no memory, and lets a manager of few
// services make some megabytes of garbage before it is collected: the collector goes by
// a share of the heap, and theirs is small.
var ballast []byte

const ballastSize = 48 << 20

// TuneMemory sets the garbage collector of the process, unless the environment
// does (GOGC).
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
		ballast = make([]byte, ballastSize)
		runtime.KeepAlive(ballast)
	}
}
