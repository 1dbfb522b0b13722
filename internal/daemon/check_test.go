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

	"onionbalancer/internal/state"
	"onionbalancer/internal/tor/process"
)

// findings keeps what a check tells.
type findings []Finding

func (all *findings) tell(f Finding) { *all = append(*all, f) }

func (all findings) String() string {
	var lines []string
	for _, f := range all {
		lines = append(lines, fmt.Sprintf("%s %s: %s -> %s", f.Level, f.What, f.Detail, f.Fix))
	}
	return strings.Join(lines, "\n")
}

func TestCheckStored(t *testing.T) {
	dir := t.TempDir()
	cfg := parse(t, dir, "state_dir = \"state\"\n"+service("front")+
		"[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n")
	path := filepath.Join(cfg.StateDir, state.File)
	check := func() string {
		var found findings
		(&checker{cfg: cfg, tell: found.tell}).checkStored()
		return strings.ReplaceAll(found.String(), " stored state "+path+":", "")
	}
	if said := check(); said != "" {
		t.Errorf("nothing stored: %s", said)
	}
	db, err := state.Open(cfg.StateDir, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if said := check(); said != "ok whole -> " {
		t.Errorf("in use: %s", said)
	}
	if err := errors.Join(db.Close(), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if said := check(); !strings.Contains(said, "warning others can open it: its mode is -rw-r----- -> chmod 600 ") {
		t.Errorf("mode 0640: %s", said)
	}
	if os.Getuid() == 0 {
		if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12345, -1)); err != nil {
			t.Fatal(err)
		}
		if said := check(); !strings.Contains(said, "warning belongs to user 12345, and balancer runs as user 0") {
			t.Errorf("another's: %s", said)
		}
	}
	if err := os.Truncate(path, 5000); err != nil {
		t.Fatal(err)
	}
	if said := check(); !strings.Contains(said, "warning damaged: ") || !strings.Contains(said, "restore it from a backup") {
		t.Errorf("cut short: %s", said)
	}
	old := filepath.Join(cfg.StateDir, "services", "label", "revision-floors.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(old), 0o700), os.WriteFile(old, []byte(`{"version":2}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if said := check(); !strings.Contains(said, "failed reading the state of an earlier version: "+old+": a newer balancer wrote it") {
		t.Errorf("a newer version's: %s", said)
	}
}

func TestCheckBuild(t *testing.T) {
	var all findings
	c := &checker{tell: all.tell}
	c.checkBuild(true)
	if len(all) != 0 {
		t.Errorf("of a good build: %+v", all)
	}
	c.checkBuild(false)
	if len(all) != 1 || all[0].Level != LevelWarning || all[0].Fix == "" {
		t.Errorf("of a build that erases nothing: %+v", all)
	}
}

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
		var found findings
		if err := Check(t.Context(), parse(t, dir, text), false, slog.New(slog.DiscardHandler), found.tell); err != nil {
			t.Fatal(err)
		}
		all := found.String()
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
