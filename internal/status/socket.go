package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"onionbalancer/internal/peer"
	"onionbalancer/internal/printable"
)

// SocketName is the socket's name inside the daemon's state directory.
const SocketName = "status.sock"

// maxSocketPath is what the kernel allows in sun_path, NUL included.
const maxSocketPath = 108

// answerPatience is how long an answer may take, all of it.
const answerPatience = 10 * time.Second

// maxAnswer bounds what is read of an answer, in bytes: thousands of services.
const maxAnswer = 64 << 20 // 64 MiB

// Serve answers with snapshot() on the unix socket at path until ctx ends: GET
// /status as JSON, GET /metrics as Prometheus text. The socket is created 0600;
// one that a dead daemon left behind is replaced, one that a living daemon
// answers on is an error. Those who connect and do not ask, or do not read the
// answer, are few at a time, and not for long.
func Serve(ctx context.Context, path string, log *slog.Logger, snapshot func() Snapshot) error {
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("opening the status socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A reader that went away is no concern of ours.
		_ = json.NewEncoder(w).Encode(snapshot())
	})
	mux.Handle("GET /metrics", metricsHandler(snapshot))
	server := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(&crowd{Listener: listener}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the status socket: %w", err)
	}
	return nil
}

// CheckPath says whether Serve can make a socket at path, which the kernel wants
// short.
func CheckPath(path string) error {
	const born = "/.s4294967295/s" // what it is called first, below the directory
	dir := filepath.Dir(path)
	if room := maxSocketPath - 1 - max(len(born), len(path)-len(dir)); len(dir) > room {
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
	// The socket comes to life under a name in a directory that only we can
	// enter, so that no moment exists at which others could open it.
	nursery, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(nursery)
	born := filepath.Join(nursery, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(born, 0o600), os.Rename(born, path)); err != nil {
		listener.Close()
		return nil, err
	}
	return removing{listener, path}, nil
}

// removing takes the socket's file away with the listener.
type removing struct {
	net.Listener
	path string
}

func (r removing) Close() error {
	return errors.Join(r.Listener.Close(), os.Remove(r.path))
}

// Query asks the daemon whose socket is at path for its snapshot.
func Query(ctx context.Context, path string) (Snapshot, error) {
	var s Snapshot
	body, err := get(ctx, path, "/status")
	if err != nil {
		return s, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&s); err != nil {
		return s, fmt.Errorf("reading the daemon's status: %w", err)
	}
	return s, nil
}

// Metrics copies the metrics of the daemon whose socket is at path to out, as
// Prometheus text.
func Metrics(ctx context.Context, path string, out io.Writer) error {
	body, err := get(ctx, path, "/metrics")
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(out, io.LimitReader(body, maxAnswer)); err != nil {
		return fmt.Errorf("reading the daemon's metrics: %w", err)
	}
	return nil
}

// dial connects to a daemon, which is root's, ours, or of the user whose the
// socket's directory is. Anyone else who listens there is not believed.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	var others []int
	if info, err := os.Stat(filepath.Dir(path)); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			others = append(others, int(stat.Uid))
		}
	}
	if err := peer.Check(conn, others...); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// get asks the daemon whose socket is at path for one of its pages.
func get(ctx context.Context, path, page string) (io.ReadCloser, error) {
	client := http.Client{Timeout: answerPatience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://balancer"+page, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the daemon for its status: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, unanswered(path, err)
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("asking the daemon for its status: it answered %s", response.Status)
	}
	return response.Body, nil
}
