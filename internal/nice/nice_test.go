package nice

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// A process that was started afterwards has the priority, too, whichever thread started it.
func TestStepAside(t *testing.T) {
	if os.Getenv("NICE_TEST") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestStepAside$")
		cmd.Env = append(os.Environ(), "NICE_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	StepAside()
	for range 20 {
		done := make(chan string)
		go func() {
			after, _ := exec.Command("nice").Output()
			done <- string(after)
		}()
		if after := <-done; strings.TrimSpace(after) != strconv.Itoa(increment) {
			t.Fatalf("a process has the priority %q", after)
		}
	}
}
