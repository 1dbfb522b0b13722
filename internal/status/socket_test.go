package status

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
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
		done <- Serve(ctx, path, slog.New(slog.DiscardHandler), func() Snapshot { return s }, operator, nil)
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
