package cputime

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Children returns the processor time so far of the processes that this one has
// started and that are still running, in nanoseconds that the scheduler counted.
func Children() time.Duration {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		panic("cputime: " + err.Error())
	}
	var total time.Duration
	for _, stat := range stats {
		if parent(stat) == os.Getpid() {
			total += threads(filepath.Dir(stat))
		}
	}
	return total
}

// parent reads a process's parent; 0 if the process is gone. The name before it
// may hold anything, in brackets.
func parent(stat string) int {
	text, err := os.ReadFile(stat)
	if err != nil {
		return 0
	}
	var state string
	var parent int
	if _, err := fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &parent); err != nil {
		return 0
	}
	return parent
}

// threads adds up what the threads of a process have run.
func threads(process string) (total time.Duration) {
	tasks, err := filepath.Glob(process + "/task/*/schedstat")
	if err != nil {
		panic("cputime: " + err.Error())
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		ran, _, _ := bytes.Cut(text, []byte{' '})
		if n, err := strconv.ParseInt(string(ran), 10, 64); err == nil {
			total += time.Duration(n)
		}
	}
	return total
}
