package status

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"onionbalancer/internal/owner"
)

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
		return &ForbiddenError{Socket: path, User: ownerName(filepath.Dir(path))}
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

// ownerName returns the name of the user whose directory dir is, empty if it cannot
// be told.
func ownerName(dir string) string {
	info, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	return owner.Name(owner.Of(info))
}
