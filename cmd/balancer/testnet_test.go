package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// balancer runs the command to its end and returns what it printed and its
// exit status. TestMain has put it into PATH.
func balancer(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "balancer", args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), complaints.String(), cmd.ProcessState.ExitCode()
}

// inDirectory lists the processes that work in a directory or below it, as
// each tor of a network does in its own.
func inDirectory(t *testing.T, dir string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		// Processes end while we look, and some are not ours to look at.
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

func TestTestnetDetached(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := downLab(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	if out, _, status := balancer(t, "testnet", "status", "--dir", dir); status != exitFailed || out != "network  down\n" {
		t.Errorf("before: status %d, %q", status, out)
	}
	out, complaints, status := balancer(t, "testnet", "up", "--detach", "--json", "--dir", dir, "--relays", "4", "--instances", "1", "--services", "1")
	if status != exitDone {
		t.Fatalf("up: status %d\n%s", status, complaints)
	}
	var up, now labState
	if err := json.Unmarshal([]byte(out), &up); err != nil {
		t.Fatal(err)
	}
	if up.State != "up" || len(up.Instances) != 1 || len(up.Services) != 1 || up.Socks == "" || up.Control == "" {
		t.Errorf("up: %+v", up)
	}
	if got := len(inDirectory(t, dir)); got != 3+4+2+2 {
		t.Errorf("%d tors run, not 11", got)
	}

	out, _, status = balancer(t, "testnet", "status", "--dir", dir, "--json")
	if err := json.Unmarshal([]byte(out), &now); err != nil || status != exitDone {
		t.Fatalf("status: status %d, %v", status, err)
	}
	if now.PID != up.PID || now.Consensus == nil || now.Consensus.Relays != 7 || !now.Consensus.NextPeriod.After(now.Consensus.ValidAfter) {
		t.Errorf("status: %s", out)
	}
	if out, _, _ := balancer(t, "testnet", "status", "--dir", dir); !strings.Contains(out, up.Instances[0].Address) {
		t.Errorf("status does not name the instance: %s", out)
	}
	if _, _, status := balancer(t, "check", "--offline", "--config", up.Config); status != exitDone {
		t.Errorf("the balancer's configuration is not good: status %d", status)
	}
	if _, complaints, status := balancer(t, "testnet", "up", "--dir", dir); status != exitFailed || !strings.Contains(complaints, "testnet down") {
		t.Errorf("a second up: status %d, %q", status, complaints)
	}

	if _, complaints, status := balancer(t, "testnet", "down", "--dir", dir); status != exitDone {
		t.Errorf("down: status %d, %q", status, complaints)
	}
	if left := inDirectory(t, dir); len(left) != 0 {
		t.Errorf("after down, processes %v are there", left)
	}
	if _, _, status := balancer(t, "testnet", "down", "--dir", dir); status != exitDone {
		t.Errorf("down again: status %d", status)
	}
}

// TestTestnetCtrlC interrupts a network at the terminal while it starts.
func TestTestnetCtrlC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "balancer", "testnet", "up", "--dir", dir, "--relays", "4", "--instances", "0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); len(inDirectory(t, dir)) < 7; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("the tors did not start")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("after Ctrl-C: %v", err)
	}
	if left := inDirectory(t, dir); len(left) != 0 {
		t.Errorf("after Ctrl-C, processes %v are there", left)
	}
	if state, err := readLabState(dir); err != nil || state.State != "down" {
		t.Errorf("after Ctrl-C: %+v, %v", state, err)
	}
}

func TestTestnetMisuse(t *testing.T) {
	for _, args := range [][]string{
		{"testnet", "up", "--voting-interval", "7s"},
		{"testnet", "up", "--voting-interval", "soon"},
		{"testnet", "up", "--authorities", "2"},
		{"testnet", "up", "--relays", "1"},
		{"testnet", "up", "--instances", "-1"},
		{"testnet", "up", "now"},
		{"demo", "--instances", "1"},
		{"demo", "--fetches", "3"},
	} {
		if _, complaints, status := balancer(t, args...); status != exitMisuse || complaints == "" {
			t.Errorf("%v: status %d, %q", args, status, complaints)
		}
	}
	if _, complaints, status := balancer(t, "testnet", "up", "--tor", "no-such-tor", "--dir", t.TempDir()); status != exitFailed || !strings.Contains(complaints, "Debian package tor") {
		t.Errorf("without tor: status %d, %q", status, complaints)
	}
}
