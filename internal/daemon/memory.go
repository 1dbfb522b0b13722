package daemon

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"
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

// rushPercent takes the place of garbagePercent for rushTime when many services begin at
// once: collecting took half of the processor time, and they waited.
const (
	rushPercent = 50
	rushTime    = 20 * time.Second
	rushLeast   = 100 // services
)

// rushOver ends a rush; nil without TuneMemory, or if the environment sets the collector.
var rushOver *time.Timer

// rush allows the garbage of services that are about to begin.
func rush(services int) {
	if services >= rushLeast && rushOver != nil {
		debug.SetGCPercent(rushPercent)
		rushOver.Reset(rushTime)
	}
}

// TuneMemory sets the garbage collector of the process, unless the environment
// does (GOGC).
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
		ballast = make([]byte, ballastSize)
		runtime.KeepAlive(ballast)
		rushOver = time.AfterFunc(rushTime, func() { debug.SetGCPercent(garbagePercent) })
	}
}

// What Go keeps for later, having had it in use once, is looked at every returnEvery. More
// than idleMost bytes of it go back to the system, which costs a collection.
const (
	returnEvery = 5 * time.Minute
	idleMost    = 16 << 20
)

// ReturnMemory gives memory back to the system that a rush of work left behind, until ctx
// ends: Go does so by itself, but slowly.
func ReturnMemory(ctx context.Context) {
	ticker := time.NewTicker(returnEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapIdle-m.HeapReleased > idleMost {
			debug.FreeOSMemory()
		}
	}
}
