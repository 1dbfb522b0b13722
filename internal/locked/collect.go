package locked

import (
	"runtime"
	"sync/atomic"
	"time"
)

// collectDelay is how long what Do left on the heap may lie there after
// CollectSoon.
const collectDelay = 5 * time.Second

// collectAt is when the collection that was asked for is due, in nanoseconds.
var collectAt atomic.Int64

// CollectSoon has the garbage collector run within the next five seconds, and
// returns at once.
//
// What functions called by Do allocate is erased when it is collected, and Go
// promises no more than one collection in two minutes to a program that idles.
// So whoever has used a secret asks for one. It costs a few milliseconds of a
// core, which is nothing once a day, and too much for each of thousands of
// services whose period changes in the same second: those who ask within the
// five seconds share one collection.
func CollectSoon() {
	if !Erases {
		return
	}
	now := time.Now().UnixNano()
	due := collectAt.Load()
	// A due time further ahead is from before the clock was set back.
	if now < due && due <= now+int64(collectDelay) {
		return
	}
	if collectAt.CompareAndSwap(due, now+int64(collectDelay)) {
		time.AfterFunc(collectDelay, runtime.GC)
	}
}
