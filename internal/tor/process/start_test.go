package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/owner"
)

func TestStartFails(t *testing.T) {
	script := filepath.Join(t.TempDir(), "tor")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg Config
		has string
	}{
		"no tor":          {Config{Binary: "no-such-tor"}, "apt install tor"},
		"unknown option":  {Config{ExtraLines: []string{"NoSuchOption 1"}}, "NoSuchOption"},
		"line break":      {Config{ExtraLines: []string{"DisableNetwork 1\nSocksPort 9050"}}, "line break"},
		"file in the way": {Config{Dir: filepath.Join(file, "tor")}, "not a directory"},
		"no directory":    {Config{}, "no directory"},
		"not a tor":       {Config{Binary: "/bin/false"}, "exit status 1"},
		"hangs":           {Config{Binary: script, times: times{start: 50 * time.Millisecond}}, "did not open its control port"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := test.cfg
			if cfg.Dir == "" && name != "no directory" {
				cfg.Dir = shortDir(t)
			}
			p, err := Start(t.Context(), cfg)
			if err == nil {
				p.Stop()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), test.has) {
				t.Errorf("got %q, want %q in it", err, test.has)
			}
		})
	}
}

func TestStartHeedsItsContext(t *testing.T) {
	script := filepath.Join(t.TempDir(), "tor")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Config{Dir: shortDir(t), Binary: script}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A tor that cannot be started again is tried at growing intervals.
func TestRestartsAreSpaced(t *testing.T) {
	dir := shortDir(t)
	starts := filepath.Join(t.TempDir(), "starts")
	script := filepath.Join(t.TempDir(), "tor")
	text := fmt.Sprintf("#!/bin/sh\necho x >> %s\n[ $(wc -l < %s) -gt 1 ] && { echo broken now; exit 3; }\nexec tor \"$@\"\n", starts, starts)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, Config{Dir: dir, Binary: script, times: times{minBackoff: 20 * time.Millisecond, maxBackoff: 200 * time.Millisecond}})
	_ = syscall.Kill(p.State().PID, syscall.SIGKILL)
	began := time.Now()
	eventually(t, "five tries", func() bool { return p.State().Restarts >= 6 })
	// 10-20, 20-40, 40-80, 80-160, 100-200, 100-200 ms.
	if took := time.Since(began); took < 350*time.Millisecond {
		t.Errorf("six restarts within %v", took)
	}
	if s := p.State(); !strings.Contains(s.LastError, "broken now") || !strings.Contains(s.LastError, "exit status 3") {
		t.Errorf("state %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial without a tor: %v", err)
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("long", 30), `with "odd" name`)
	leftOver, err := os.MkdirTemp("", "balancer-tor-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(leftOver, "control.old"), filepath.Join(dir, socketLink)); err != nil {
		t.Fatal(err)
	}
	p := start(t, Config{Dir: dir})
	connect(t, p)
	if len(p.files.socket) > maxSocketPath || p.files.socketDir == "" {
		t.Errorf("socket at %s", p.files.socket)
	}
	if info, err := os.Stat(p.files.socketDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its directory: %v, %v", info, err)
	}
	if _, err := os.Stat(leftOver); err == nil {
		t.Error("what an owner that was killed left is still there")
	}
	p.Stop()
	if _, err := os.Stat(p.files.socketDir); err == nil {
		t.Error("the socket's directory is still there")
	}
}

// TestLinksAreNotFollowed: what stands in tor's place and leads elsewhere is
// neither closed to others nor written to.
func TestLinksAreNotFollowed(t *testing.T) {
	dir := shortDir(t)
	elsewhere := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), os.Chmod(elsewhere, 0o755), os.Symlink(elsewhere, dir)); err != nil {
		t.Fatal(err)
	}
	if p, err := Start(t.Context(), Config{Dir: dir, ExtraLines: offline}); err == nil {
		p.Stop()
		t.Error("started in another directory")
	}
	info, err := os.Stat(elsewhere)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the other directory is now %v, %v", info.Mode(), err)
	}
	if list, err := os.ReadDir(elsewhere); err != nil || len(list) > 0 {
		t.Errorf("in it: %v, %v", list, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(elsewhere, filepath.Join(dir, dataDir))); err != nil {
		t.Fatal(err)
	}
	if p, err := Start(t.Context(), Config{Dir: dir, ExtraLines: offline}); err == nil {
		p.Stop()
		t.Error("started with another data directory")
	}
	if err := os.Remove(filepath.Join(dir, dataDir)); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(elsewhere, "file")
	if err := errors.Join(os.WriteFile(target, []byte("mine"), 0o644), os.Symlink(target, filepath.Join(dir, torrcFile))); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: dir})
	if text, err := os.ReadFile(target); err != nil || string(text) != "mine" {
		t.Errorf("torrc went through a link: %q, %v", text, err)
	}
}

// TestRootStaysOut: root starts nothing in a directory of another user.
func TestRootStaysOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	dir := shortDir(t)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Lchown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: dir, ExtraLines: offline})
	if theirs := new(owner.Error); !errors.As(err, &theirs) || theirs.UID != 65534 {
		t.Errorf("started, or %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("left in it: %v, %v", list, err)
	}
}

// TestRunning: the tor that runs in a directory is found by it, and talked to.
func TestRunning(t *testing.T) {
	for name, dir := range map[string]string{"short": shortDir(t), "long": filepath.Join(shortDir(t), strings.Repeat("long", 30))} {
		t.Run(name, func(t *testing.T) {
			if _, _, ok := Running(t.Context(), dir); ok {
				t.Error("found before it was started")
			}
			p := start(t, Config{Dir: dir})
			cfg, socket, ok := Running(t.Context(), dir)
			if !ok || socket != p.Socket() || cfg.CookieFile != p.files.path(cookieFile) {
				t.Fatalf("found %q, %+v, %v", socket, cfg, ok)
			}
			conn, err := cfg.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			p.Stop()
			if _, _, ok := Running(t.Context(), dir); ok {
				t.Error("found after its end")
			}
		})
	}
}
