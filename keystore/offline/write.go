package offline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/durable"
)

// Creatable returns an error if one of the paths cannot be made anew, as far as
// can be told before: documents never take the place of anything.
func Creatable(paths ...string) error {
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already, and nothing is overwritten: %w", path, os.ErrExist)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("no file can be made in %s: %w", dir, err)
		}
	}
	return nil
}

// WriteNew writes a new file that only its owner can read, and syncs it.
func WriteNew(path string, content []byte) error {
	if err := durable.WriteNew(path, content, privateFile); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
