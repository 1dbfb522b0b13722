package socket

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveText answers every request with text.
func serveText(t *testing.T, path, text string) (stop func() error) {
	t.Helper()
	return serveHandler(t, path, clientPatience, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
}

func serveHandler(t *testing.T, path string, patience time.Duration, h http.Handler) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, path, slog.New(slog.DiscardHandler), h, patience) }()
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

// get asks at path for a page.
func get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, Host+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := Do(path, request, Patience)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
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
	path := filepath.Join(t.TempDir(), "s.sock")
	abandon(t, path)
	stop := serveText(t, path, "well")
	defer stop()
	err := Serve(t.Context(), path, slog.New(slog.DiscardHandler), nil)
	if err == nil || !strings.Contains(err.Error(), "another balancer") {
		t.Fatalf("second daemon on one socket: %v", err)
	}
}

// Who may not ask is told so, and as whom to ask; who gets no answer is told where.
func TestUnanswered(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
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
		if _, err := get(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no balancer answers at "+path+": is it running?") {
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
	if _, err := get(ctx, mute.Addr().String()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a daemon that is stopped: %v", err)
	}
}

func TestServeLongPath(t *testing.T) {
	err := Serve(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120)), slog.New(slog.DiscardHandler), nil)
	if err == nil || !strings.Contains(err.Error(), "shorter state_dir") {
		t.Fatalf("long path: %v", err)
	}
	if _, err := get(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "may have 107") {
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
		path := filepath.Join(dir, "s.sock")
		if err := CheckPath(path); fits != (err == nil) {
			t.Errorf("%d bytes: %v", length, err)
		}
		if fits {
			if err := serveText(t, path, "well")(); err != nil {
				t.Error(err)
			}
		}
	}
}
