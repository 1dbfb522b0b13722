// Package nice lets tests of virtual time, which take all the processor time that there is,
// step aside for those that run real networks beside them, whose time is the clock's.
package nice

import (
	"os"
	"strconv"
	"syscall"
)

// increment leaves a tenth of the processor time when others want all of it.
const increment = 10

// StepAside lowers the priority of the process. It is to be called before others begin to
// work in it: the system counts by threads, and a thread has the priority of the one that made it.
func StepAside() {
	threads, _ := os.ReadDir("/proc/self/task") // none: all go on as before
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, increment) // the thread may have ended
		}
	}
}
