package lab

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessorTime returns the processor time that a process has used so far, to the
// nanosecond: the times in /proc count in hundredths of a second, of which it may
// need none.
func ProcessorTime(pid int) (time.Duration, error) {
	const processClock = 2 // the low bits of a clock's number, which say whose time it counts
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|processClock, &t); err != nil {
		return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}
