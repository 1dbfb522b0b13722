package status

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func serve(t *testing.T, path string) (stop func() error) {
	t.Helper()
	return serveSnapshot(t, path, Snapshot{PID: 7, Version: "test"})
}

func serveSnapshot(t *testing.T, path string, s Snapshot) (stop func() error) {
	t.Helper()
	return serveWith(t, path, s, nil)
}

func serveWith(t *testing.T, path string, s Snapshot, operator Operator) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, path, slog.New(slog.DiscardHandler), func() Snapshot { return s }, operator)
	}()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the socket never answered")
		}
		time.Sleep(time.Millisecond)
	}
	return func() error { cancel(); return <-done }
}

func TestQuery(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	stop := serve(t, path)
	got, err := Query(t.Context(), path)
	if err != nil || got.PID != 7 || got.Version != "test" {
		t.Fatalf("Query = %+v, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("socket left behind: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Fatalf("left behind: %v", entries)
	}
	if _, err := Query(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Fatalf("Query of a stopped daemon: %v", err)
	}
}

// abandon leaves a socket at path on which nobody listens.
func abandon(t *testing.T, path string) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
}

func TestServeTakesOverFromTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	abandon(t, path)
	stop := serve(t, path)
	defer stop()
	err := Serve(t.Context(), path, slog.New(slog.DiscardHandler), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "another balancer") {
		t.Fatalf("second daemon on one socket: %v", err)
	}
}

// Who may not ask is told so, and as whom to ask; who gets no answer is told where.
func TestQueryUnanswered(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketName)
	forbidden := unanswered(path, &os.PathError{Op: "connect", Path: path, Err: syscall.EACCES})
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if e := (*ForbiddenError)(nil); !errors.As(forbidden, &e) || e.User != me.Username ||
		!strings.HasPrefix(e.Error(), "permission denied: ") || strings.Contains(e.Error(), "running?") {
		t.Errorf("forbidden: %v", forbidden)
	}
	abandon(t, path)
	for what, path := range map[string]string{"never was": filepath.Join(dir, "none"), "left behind": path} {
		if _, err := Query(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no balancer answers at "+path+": is it running?") {
			t.Errorf("a socket that %s: %v", what, err)
		}
	}
	mute, err := net.Listen("unix", filepath.Join(dir, "mute"))
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Query(ctx, mute.Addr().String()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a daemon that is stopped: %v", err)
	}
}

func TestServeLongPath(t *testing.T) {
	err := Serve(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120)), slog.New(slog.DiscardHandler), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "shorter state_dir") {
		t.Fatalf("long path: %v", err)
	}
	if _, err := Query(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "may have 107") {
		t.Fatalf("asking at a long path: %v", err)
	}
}

// Up to the length that CheckPath allows a socket can be made, and no further.
func TestCheckPath(t *testing.T) {
	base, err := os.MkdirTemp("", "s") // t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	for length, fits := range map[int]bool{92: true, 93: false} {
		dir := filepath.Join(base, strings.Repeat("d", length-len(base)-1))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, SocketName)
		if err := CheckPath(path); fits != (err == nil) {
			t.Errorf("%d bytes: %v", length, err)
		}
		if fits {
			if err := serve(t, path)(); err != nil {
				t.Error(err)
			}
		}
	}
}
