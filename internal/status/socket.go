package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/peer"
	"onionbalancer/internal/printable"
)

// SocketName is the socket's name inside the daemon's state directory.
const SocketName = "status.sock"

// maxSocketPath is the kernel's limit for sun_path, NUL included.
const maxSocketPath = 108

// answerPatience is the timeout of an answer.
const answerPatience = 10 * time.Second

// maxAnswer limits the size of an answer, in bytes: thousands of services.
const maxAnswer = 64 << 20 // 64 MiB

// Serve answers with snapshot() on the unix socket at path until ctx ends: GET
// /status as JSON, GET /metrics as Prometheus text. If there is an operator, it takes
// orders, too: POST /instances/WORD. No GET changes anything. The socket is created 0600;
// a stale one of a dead daemon is replaced, one that a live daemon
// answers on is an error. Idle and slow clients are limited in number
// and time.
func Serve(ctx context.Context, path string, log *slog.Logger, snapshot func() Snapshot, operator Operator) error {
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("opening the status socket: %w", err)
	}
	defer os.Remove(path)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// Ignore clients that closed the connection.
		_ = json.NewEncoder(w).Encode(snapshot())
	})
	mux.Handle("GET /metrics", metricsHandler(snapshot))
	if operator != nil {
		operate(mux, operator)
	}
	server := &http.Server{
		Handler: mux, ConnState: new(connLimit).connState, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the status socket: %w", err)
	}
	return nil
}

// CheckPath reports whether Serve can make a socket at path, whose length the kernel
// limits.
func CheckPath(path string) error {
	const temporary = "/.s4294967295/s" // its first name, below the directory
	dir := filepath.Dir(path)
	if room := maxSocketPath - 1 - max(len(temporary), len(path)-len(dir)); len(dir) > room {
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

// maxConns is how many connections to the status socket are open at a time.
const maxConns = 32

// connLimit holds the open connections of a server, at most maxConns. One more
// closes the oldest, so that the daemon keeps its file descriptors and answers
// real requests, however many clients connect and then send or read nothing.
type connLimit struct {
	mu   sync.Mutex
	open []net.Conn // the oldest first
}

// connState is for http.Server.
func (c *connLimit) connState(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if len(c.open) == maxConns {
			c.open[0].Close()
			c.open = c.open[1:]
		}
		c.open = append(c.open, conn)
	case http.StateClosed:
		c.open = slices.DeleteFunc(c.open, func(other net.Conn) bool { return other == conn })
	}
}

// Query asks the daemon whose socket is at path for its snapshot.
func Query(ctx context.Context, path string) (s Snapshot, err error) {
	err = ask(ctx, path, http.MethodGet, "/status", nil, decodeInto(&s))
	return s, err
}

// Metrics copies the metrics of the daemon whose socket is at path to out, as
// Prometheus text.
func Metrics(ctx context.Context, path string, out io.Writer) error {
	return ask(ctx, path, http.MethodGet, "/metrics", nil, func(body io.Reader) error {
		_, err := io.Copy(out, body)
		return err
	})
}

// dial connects to a daemon, which must run as root, as us, or as the owner of the
// socket's directory. Any other process that listens there is not trusted.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	var others []int
	if info, err := os.Stat(filepath.Dir(path)); err == nil {
		others = append(others, owner.Of(info))
	}
	if err := peer.Check(conn, others...); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask sends a request to the daemon whose socket is at path, and reads the answer.
func ask(ctx context.Context, path, method, page string, body io.Reader, read func(io.Reader) error) error {
	client := http.Client{Timeout: answerPatience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://balancer"+page, body)
	if err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return unanswered(path, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	if err := read(io.LimitReader(response.Body, maxAnswer)); err != nil {
		return fmt.Errorf("reading the daemon's %s: %w", page[1:], err)
	}
	return nil
}

// unanswered says why there was no answer at path.
func unanswered(path string, err error) error {
	request := (*url.Error)(nil)
	if errors.As(err, &request) {
		err = request.Err
	}
	switch {
	case request != nil && request.Timeout():
		return fmt.Errorf("the balancer that listens at %s does not answer: it is stopped, or the machine is overloaded", path)
	case len(path) >= maxSocketPath:
		return fmt.Errorf("no balancer can listen at %q: it is %d bytes long, and a socket's path may have %d", path, len(path), maxSocketPath-1)
	case errors.Is(err, fs.ErrPermission):
		forbidden := &ForbiddenError{Socket: path}
		if info, err := os.Stat(filepath.Dir(path)); err == nil {
			forbidden.User = owner.Name(owner.Of(info))
		}
		return forbidden
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no balancer answers at %s: is it running? %w", path, err)
	}
	return fmt.Errorf("asking the balancer that listens at %s: %w", path, err)
}

// ForbiddenError says that this user may not query the daemon.
type ForbiddenError struct {
	Socket string
	User   string // who may, beside root; empty if that cannot be told
}

// Error names the socket and the user.
func (e *ForbiddenError) Error() string {
	text := fmt.Sprintf("permission denied: %s is open to the user that balancer runs as, and to root", e.Socket)
	if e.User != "" {
		text = fmt.Sprintf("permission denied: %s is open to the user %s, and to root", e.Socket, e.User)
	}
	return text
}
