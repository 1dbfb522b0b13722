package nice

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// All threads have the priority, those too that were made afterwards.
func TestStepAside(t *testing.T) {
	if os.Getenv("NICE_TEST") == "" { // in a process of its own: the tests go on as they were
		cmd := exec.Command(os.Args[0], "-test.run", "^TestStepAside$")
		cmd.Env = append(os.Environ(), "NICE_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	StepAside()
	var wait sync.WaitGroup
	leave := make(chan struct{})
	var begun sync.WaitGroup
	for range 20 {
		begun.Add(1)
		wait.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begun.Done()
			<-leave
		})
	}
	begun.Wait()
	threads, _ := filepath.Glob("/proc/self/task/*/stat")
	if len(threads) < 20 {
		t.Errorf("%d threads", len(threads))
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest) // from the third on
		if has, err := strconv.Atoi(fields[19-3]); err != nil || has < priority {
			t.Errorf("%s: %q", thread, fields[19-3])
		}
	}
	close(leave)
	wait.Wait()
}
