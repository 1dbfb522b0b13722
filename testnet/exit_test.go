package testnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is the other end of TestNothingOutlivesUs: it starts a network, says
// what processes that made, and leaves without tidying up.
func child(how string) {
	Start(context.Background(), Config{Dir: os.Getenv("TESTNET_DIR"), Relays: 3, Progress: func(p Progress) {
		if p.Running < 6 {
			return
		}
		pids, err := childrenOf(os.Getpid())
		if err != nil {
			panic(err)
		}
		if how == "kill" {
			// A frozen tor does not see that we are gone. The kernel thaws it, since
			// nobody is left to.
			pid, _ := strconv.Atoi(pids[0])
			syscall.Kill(pid, syscall.SIGSTOP)
		}
		fmt.Println(strings.Join(pids, " "))
		if how == "panic" {
			panic("as the test asks")
		}
		select {}
	}})
	os.Exit(3) // the network never came that far
}

// childrenOf lists the processes whose parent is the given one.
func childrenOf(pid int) ([]string, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, task := range tasks {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, strings.Fields(string(children))...)
	}
	return all, nil
}

// gone reports the first process that still runs; one that nobody has waited
// for counts as gone.
func gone(pids ...int) error {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return err
		}
		if _, state, ok := strings.Cut(string(stat), ") "); !ok || state[0] != 'Z' {
			return fmt.Errorf("process %d still runs", pid)
		}
	}
	return nil
}

// TestNothingOutlivesUs ends a process with a network in ways that leave it no
// chance to call Stop.
func TestNothingOutlivesUs(t *testing.T) {
	t.Parallel()
	for how, signal := range map[string]os.Signal{
		"panic":  nil,
		"Ctrl-C": syscall.SIGINT,
		"kill":   syscall.SIGKILL,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "TESTNET_CHILD="+how, "TESTNET_DIR="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatalf("the child said nothing: %v", err)
			}
			var pids []int
			for _, word := range strings.Fields(line) {
				pid, err := strconv.Atoi(word)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
			if len(pids) < 6 {
				t.Errorf("the child had %d processes, not 6", len(pids))
			}
			if signal != nil {
				cmd.Process.Signal(signal)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the child ended well")
			}
			for began := time.Now(); gone(pids...) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Since(began) > time.Minute {
					t.Fatal(gone(pids...))
				}
			}
		})
	}
}
