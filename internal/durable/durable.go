// Package durable writes files so that they are there after a power cut.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// WriteNew writes a file that is not there yet, and syncs it: all of it or, on
// an error, nothing. It never takes the place of anything, nor follows a link.
// Only SyncDir makes its name last.
func WriteNew(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// SyncDir makes files created, renamed or removed in dir durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}
