package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/peer"
)

// Patience is how long a daemon may take to answer.
const Patience = 10 * time.Second

// Host is what stands for the daemon in the URLs of requests.
const Host = "http://balancer"

// Do sends a request to the daemon whose socket is at path and returns its answer, of any
// status, whose body the caller closes. All of it is to arrive within timeout; 0 is no
// limit. The error says why there was no answer.
func Do(path string, request *http.Request, timeout time.Duration) (*http.Response, error) {
	client := http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}}
	response, err := client.Do(request)
	if err != nil {
		return nil, unanswered(path, err)
	}
	return response, nil
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

// unanswered says why there was no answer at path.
func unanswered(path string, err error) error {
	request := (*url.Error)(nil)
	if errors.As(err, &request) {
		err = request.Err
	}
	switch {
	case request != nil && request.Timeout():
		return fmt.Errorf("the balancer that listens at %s does not answer: it is stopped, or the machine is overloaded", path)
	case len(path) >= maxPath:
		return fmt.Errorf("no balancer can listen at %q: it is %d bytes long, and a socket's path may have %d", path, len(path), maxPath-1)
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

// ForbiddenError says that this user may not ask the daemon.
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
