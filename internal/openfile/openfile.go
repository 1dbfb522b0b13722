// Package openfile opens files that an operator named, which may be anything.
package openfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Regular opens a regular file for reading. Symbolic links are followed, as
// administrators use them to put files in place; the info is of the file that
// was opened. Errors are *fs.PathError.
func Regular(path string) (*os.File, fs.FileInfo, error) {
	// Not blocking, or opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a regular file but %s", info.Mode().Type())}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Secret is Regular for a file that should be its owner's alone, which the
// caller checks. Errors leave out the path, which the caller tells.
func Secret(path string) (*os.File, fs.FileInfo, error) {
	f, info, err := Regular(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("%w; this program runs as user %d and must own the file", errors.Unwrap(err), os.Geteuid())
	}
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	return f, info, nil
}
