package balance

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// killedChild names the directory in which TestKilledAtAnyMoment's child works.
const killedChild = "BALANCER_TEST_KILLED_CHILD"

// A process killed with SIGKILL at any moment leaves files that load, and no
// revision counter that it ever used is handed out again.
func TestKilledAtAnyMoment(t *testing.T) {
	if dir := os.Getenv(killedChild); dir != "" {
		useRevisions(t, Dir(dir))
		return
	}
	dir := t.TempDir()
	used := uint64(0) // the highest that a child had handed out before it died
	for n := range 25 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), killedChild+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		first, deadline := true, time.Now().Add(time.Hour)
		for lines.Scan() {
			revision, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break // a line that was cut short
			}
			if first {
				deadline, first = time.Now().Add(rand.N(30*time.Millisecond)), false
				if revision <= used {
					t.Fatalf("child %d began with revision %d after %d was used", n, revision, used)
				}
			}
			used = max(used, revision)
			if time.Now().After(deadline) {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || first {
			t.Fatalf("child %d was not killed at its work: %v", n, err)
		}
	}
}

// useRevisions takes revision counters and prints them until killed. The clock
// stands still, so that only the floor keeps them rising.
func useRevisions(t *testing.T, store Store) {
	identity := testIdentity(t, 1)
	r, err := newRevisions(identity.Address(), store)
	if err != nil {
		t.Fatal(err)
	}
	p := descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	blinded, err := identity.Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1_800_000_000, 0)
	for {
		revision, err := r.next(blinded.RevisionKey(), p, start, start.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(revision)
		if err := store.SaveHeld(identity.Address(), []Held{{Instance: identity.Address(), Raw: make([]byte, 40000)}}); err != nil {
			t.Fatal(err)
		}
	}
}
