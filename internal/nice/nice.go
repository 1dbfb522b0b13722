// Package nice lets tests of virtual time, which take all the processor time that there is,
// step aside for those that run real networks beside them, whose time is the clock's.
package nice

import (
	"os"
	"strconv"
	"syscall"
)

// priority is a tenth of a core while somebody else wants it, too.
const priority = 10

// StepAside lowers the priority of the process, and of those that it starts. The system counts
// by threads, and a thread begins with the priority of the one that made it.
func StepAside() {
	seen := map[string]bool{}
	for more := true; more; {
		more = false
		threads, _ := os.ReadDir("/proc/self/task") // none: all go on as before
		for _, thread := range threads {
			if id, err := strconv.Atoi(thread.Name()); err == nil && !seen[thread.Name()] {
				seen[thread.Name()], more = true, true // and what it made meanwhile
				lower(id)
			}
		}
	}
}

func lower(thread int) {
	const kernel = 20 // less the priority is what the kernel says
	if has, err := syscall.Getpriority(syscall.PRIO_PROCESS, thread); err == nil && kernel-has < priority {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, thread, priority) // it may have ended
	}
}
