package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"onionbalancer/internal/owner"
)

// claim makes sure that no tor but ours touches the directory, and returns the
// file whose lock says so. Asking tor would be too late: it opens its control
// socket, in the place of the other's, before it looks for another.
//
// A tor whose owner was killed needs a moment to end; it is given patience.
func (f *files) claim(ctx context.Context, patience time.Duration) (*os.File, error) {
	ours, err := lockFile(f.root, ownerFile)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		theirs, err := lockFile(f.root, filepath.Join(dataDir, "lock")) // as tor does it
		if err == nil {
			return ours, theirs.Close()
		}
		if !errors.Is(err, ErrInUse) || time.Now().After(deadline) {
			_ = ours.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			_ = ours.Close()
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lockFile opens and locks a file; closing it, and our end, unlock it.
func lockFile(root *os.Root, name string) (*os.File, error) {
	path := filepath.Join(root.Name(), name)
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking tor's directory: %w", owner.Explain(err, path))
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w (%s is locked)", ErrInUse, path)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}
