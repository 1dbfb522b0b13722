package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watches is into how many parts the idle time is divided.
const watches = 3

// measureResidence watches both programs while nothing happens but what the
// network does by itself, and takes the memory that they have then.
func measureResidence(ctx context.Context, o options, _ *arena, both []*contender) ([]*result, error) {
	idle := &result{Name: "processor while idle", How: "make bench-network", Unit: unitShare}
	rss := &result{Name: "resident memory", How: "make bench-network", Unit: unitBytes}
	peak := &result{Name: "… at its peak", How: "make bench-network", Unit: unitBytes}
	for turn := range watches {
		progress("watching idle programs, %v of %v", time.Duration(turn)*o.idle/watches, o.idle)
		if err := watch(ctx, o.idle/watches, both, []*series{&idle.Ours, &idle.OnionBalance}); err != nil {
			return nil, err
		}
	}
	for _, m := range []struct {
		field string
		into  *result
	}{{"VmRSS", rss}, {"VmHWM", peak}} {
		m.into.Ours, m.into.OnionBalance = series{both[0].memory(m.field)}, series{both[1].memory(m.field)}
		m.into.atMost("30 MiB", m.into.Ours.median(), 30<<20)
	}
	idle.atMost("0.1 % of a core", idle.Ours.median(), 0.001)
	return []*result{rss, peak, idle}, nil
}

// watch waits, and adds what share of a core each program has used meanwhile.
func watch(ctx context.Context, long time.Duration, both []*contender, into []*series) error {
	before, began := make([]time.Duration, len(both)), time.Now()
	var err error
	for i, c := range both {
		if before[i], err = c.processorTime(); err != nil {
			return err
		}
	}
	select {
	case <-time.After(long):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for i, c := range both {
		if err := c.running(); err != nil {
			return err
		}
		used, err := c.processorTime()
		if err != nil {
			return err
		}
		*into[i] = append(*into[i], (used-before[i]).Seconds()/time.Since(began).Seconds())
	}
	return nil
}

// processorTime is what the process has used so far, to the nanosecond: the
// times in /proc count in hundredths of a second, of which it may need none.
func (c *contender) processorTime() (time.Duration, error) {
	const processClock = 2 // the low bits of a clock's number, which say whose time it counts
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^c.cmd.Process.Pid)<<3|processClock, &t); err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", c.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// memory is a field of /proc/PID/status, in bytes.
func (c *contender) memory(field string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kilobytes * 1024
		}
	}
	return 0
}
