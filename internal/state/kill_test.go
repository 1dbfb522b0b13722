package state_test

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/state"
)

// killedChild names the directory in which TestKilledAtAnyMoment's child works.
const killedChild = "STATE_TEST_KILLED_CHILD"

// A process killed with SIGKILL at any moment, while it makes the store, carries
// old state over or writes, leaves a store that is whole and has what was reported
// as stored.
func TestKilledAtAnyMoment(t *testing.T) {
	if dir := os.Getenv(killedChild); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := oldState(t)
	stored := make(map[string]uint64) // what a child had reported before it died
	for n := range 40 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), killedChild+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Half of them early, when the store is opened; the others at their work, once
		// they have begun, however slow the machine is.
		kill := func() { _ = cmd.Process.Kill() }
		timed := n%2 == 0
		killer := time.AfterFunc(time.Minute, kill)
		if timed {
			killer.Reset(rand.N(20 * time.Millisecond))
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !timed {
				killer.Reset(rand.N(100 * time.Millisecond))
				timed = true
			}
			var key string
			var value uint64
			if parts, err := fmt.Sscanf(lines.Text(), "%s %d.", &key, &value); parts != 2 || err != nil {
				t.Logf("%q", lines.Text())
				break // a line that was cut short, or an error of the child
			}
			stored[key] = max(stored[key], value)
		}
		err = cmd.Wait()
		killer.Stop()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
			t.Fatalf("child %d was not killed at its work: %v", n, err)
		}
		if n%8 == 7 { // as if killed before the files were moved away
			_ = os.Rename(filepath.Join(dir, "services.imported"), filepath.Join(dir, "services"))
		}
	}
	d, err := state.Open(dir, state.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	checkCarriedOver(t, "in the end", d)
	if len(stored) < 5 {
		t.Errorf("children stored %v", stored)
	}
	for key, want := range stored {
		value, _, err := d.Get(state.Key(key))
		if got, parseErr := strconv.ParseUint(string(value), 10, 64); got < want || errors.Join(err, parseErr) != nil {
			t.Errorf("%s is %q, %d was stored; %v", key, value, want, err)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "state.db*")); len(files) != 1 {
		t.Errorf("files %v", files)
	}
}

// writeUntilKilled counts records up and prints them when they are stored.
func writeUntilKilled(t *testing.T, dir string) {
	d, err := state.Open(dir, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkCarriedOver(t, "in a child", d)
	if t.Failed() {
		return
	}
	var wait sync.WaitGroup
	for n := range 5 {
		wait.Go(func() {
			key := state.Key(fmt.Sprint("count/", n))
			value, version, err := d.Get(key)
			count, _ := strconv.ParseUint(string(value), 10, 64)
			for err == nil {
				count++
				var versions []uint64
				versions, err = d.Swap(t.Context(), state.Change{Key: key, Version: version, Value: strconv.AppendUint(nil, count, 10)},
					state.Change{Key: state.Key(fmt.Sprint("ballast/", n, "/", count)), Value: make([]byte, 3000*n)})
				if err == nil {
					version = versions[0]
					fmt.Printf("%s %d.\n", key, count)
					err = d.AppendEvents(t.Context(), []byte(key))
				}
			}
			t.Error(err)
		})
	}
	wait.Wait()
}
