// Package durable writes files so that they are there after a power cut.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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

// WriteChecked writes a new file at path, with mode 0600, which appears there with
// all of its content when check has seen it under another name beside, and is on the
// disk then. Missing directories are made, with mode 0700.
func WriteChecked(path string, content []byte, check func(written string) error) error {
	return writeChecked(path, content, check, func(written string) error {
		// A link, unlike a new name, overwrites nothing; but the file systems of
		// sticks have none.
		err := os.Link(written, path)
		if errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported) {
			if _, err = os.Lstat(path); err == nil {
				err = &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
			} else if errors.Is(err, fs.ErrNotExist) {
				err = os.Rename(written, path)
			}
		}
		return err
	})
}

// ReplaceChecked is WriteChecked for a file that takes the place of one that may be there.
func ReplaceChecked(path string, content []byte, check func(written string) error) error {
	return writeChecked(path, content, check, func(written string) error { return os.Rename(written, path) })
}

// writeChecked writes a file beside path, and has it named when check has seen it.
func writeChecked(path string, content []byte, check, name func(written string) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(temporary.Name()); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	if err := check(temporary.Name()); err != nil {
		return err
	}
	return errors.Join(name(temporary.Name()), SyncDir(dir))
}

// SyncDir makes files created, renamed or removed in dir durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}
