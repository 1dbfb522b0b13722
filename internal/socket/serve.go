// Package socket serves HTTP on a unix socket of a running balancer, and asks there.
package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/internal/printable"
)

// maxPath is the kernel's limit for sun_path, NUL included.
const maxPath = 108

// stopPatience is how long requests in flight have to be answered when Serve ends.
const stopPatience = time.Second

// Serve answers with handler on the unix socket at path until ctx ends, which is the base
// of the requests' contexts. The socket is created 0600; a stale one of a dead daemon is
// replaced, one that a live daemon answers on is an error. Idle and slow clients are limited
// in number and time: a handler that answers for longer has to move the deadlines.
func Serve(ctx context.Context, path string, log *slog.Logger, handler http.Handler) error {
	return serve(ctx, path, log, handler, clientPatience)
}

// serve is Serve with another patience with clients.
func serve(ctx context.Context, path string, log *slog.Logger, handler http.Handler, patience time.Duration) error {
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("opening the status socket: %w", err)
	}
	defer os.Remove(path)
	limited := newLimiter(listener, patience)
	server := &http.Server{
		Handler: limited.handler(handler), ConnState: limited.connState, ConnContext: connContext,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limited.endIdle()
		limited, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		_ = server.Shutdown(limited)
		_ = server.Close()
	})
	err = server.Serve(limited)
	if !stop() {
		<-stopped
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the status socket: %w", err)
	}
	return nil
}

// CheckPath reports whether Serve can make a socket at path, whose length the kernel
// limits.
func CheckPath(path string) error {
	const temporary = "/.s4294967295/s" // its first name, below the directory
	dir := filepath.Dir(path)
	if room := maxPath - 1 - max(len(temporary), len(path)-len(dir)); len(dir) > room {
		return fmt.Errorf("the path has %d bytes, and a socket in it leaves it %d", len(dir), room)
	}
	return nil
}

func listen(path string) (net.Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, fmt.Errorf("%s: %w: choose a shorter state_dir", printable.Text(filepath.Dir(path)), err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another balancer answers on %s: stop it, or give this one a state_dir of its own", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// The socket is made in a directory that only we can enter, and moved when
	// its mode is right, so that others can never open it.
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	temporary := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temporary, 0o600), os.Rename(temporary, path)); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}
