package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/internal/tor/process"
)

// TestRootsCheckLeavesNothing: what root left in a state directory that was never
// used, the daemon's user could not use.
func TestRootsCheckLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	writeKey(t, filepath.Join(dir, "front"), 1)
	text := "state_dir = \"state\"\n[tor]\nbinary = \"/bin/false\"\n" + service("front") +
		"[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
	state := filepath.Join(dir, "state")
	for _, there := range []bool{false, true} {
		if there {
			if err := os.Mkdir(state, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var said []string
		err := Check(t.Context(), parse(t, dir, text), false, slog.New(slog.DiscardHandler), func(f Finding) {
			said = append(said, fmt.Sprintf("%s %s: %s -> %s", f.Level, f.What, f.Detail, f.Fix))
		})
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(said, "\n")
		if strings.Contains(all, "install -d -m 0700 -o USER") == there || !strings.Contains(all, "failed tor: starting tor in "+os.TempDir()) {
			t.Errorf("state directory there: %v, said\n%s", there, all)
		}
		if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) == there {
			t.Errorf("state directory there: %v before, and after: %v", there, err)
		}
	}
	for _, dir := range []string{state, os.TempDir()} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

func TestFixTor(t *testing.T) {
	_, missing := exec.LookPath("no-such-tor")
	_, absent := exec.LookPath("/no/such/tor")
	for _, test := range []struct {
		err  error
		says string
	}{
		{missing, "install tor"},
		{absent, "install tor"},
		{&fs.PathError{Op: "chmod", Path: "tor", Err: fs.ErrPermission}, "has to belong to the user"},
		{process.ErrInUse, "try again"},
		{errors.New("exit status 1: Unknown option 'X'"), "tor.torrc"},
	} {
		if got := fixTor(fmt.Errorf("starting tor: %w", test.err)); !strings.Contains(got, test.says) {
			t.Errorf("%v: %s", test.err, got)
		}
	}
}
