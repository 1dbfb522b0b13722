package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/internal/state"
)

func TestCheckStored(t *testing.T) {
	dir := t.TempDir()
	cfg := parse(t, dir, "state_dir = \"state\"\n"+service("front")+
		"[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n")
	path := filepath.Join(cfg.StateDir, state.File)
	check := func() string {
		var said []string
		c := &checker{cfg: cfg, log: slog.New(slog.DiscardHandler), tell: func(f Finding) {
			said = append(said, fmt.Sprintf("%s %s -> %s", f.Level, f.Detail, f.Fix))
		}}
		c.checkStored()
		return strings.Join(said, "\n")
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
