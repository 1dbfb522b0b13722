package status

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, path string) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, path, func() Snapshot { return Snapshot{PID: 7, Version: "test"} })
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

func TestServeTakesOverFromTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	stop := serve(t, path)
	defer stop()
	err = Serve(t.Context(), path, nil)
	if err == nil || !strings.Contains(err.Error(), "another balancer") {
		t.Fatalf("second daemon on one socket: %v", err)
	}
}

func TestServeLongPath(t *testing.T) {
	err := Serve(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120)), nil)
	if err == nil || !strings.Contains(err.Error(), "shorter state_dir") {
		t.Fatalf("long path: %v", err)
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
