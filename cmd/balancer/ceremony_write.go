package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"onionbalancer/internal/owner"
	"onionbalancer/keystore/offline"
)

// outputs are where a document goes: as a whole to the new file out, in parts to
// the new directory split, or both. Neither is needed.
type outputs struct{ out, split string }

// check fails early if what write will make cannot be made.
func (o outputs) check() error {
	var paths []string
	for _, path := range []string{o.out, o.split} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	if err := owner.Check(paths...); err != nil {
		return err
	}
	return offline.Creatable(paths...)
}

// write writes a document, all of it or nothing, and returns the paths of its
// parts.
func (o outputs) write(whole []byte, split func() ([][]byte, error), name func(i int) string) (parts []string, err error) {
	if o.split != "" {
		contents, err := split()
		if err != nil {
			return nil, err
		}
		if parts, err = writeParts(o.split, contents, name); err != nil {
			return nil, fmt.Errorf("in parts: %w", err)
		}
	}
	if o.out != "" {
		if err := offline.WriteNew(o.out, whole); err != nil {
			return nil, errors.Join(err, removeParts(o.split, parts))
		}
	}
	return parts, nil
}

// writeParts writes the parts of a document to the new directory dir, and
// returns their paths.
func writeParts(dir string, parts [][]byte, name func(i int) string) (paths []string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for i, part := range parts {
		path := filepath.Join(dir, name(i))
		if err := offline.WriteNew(path, part); err != nil {
			return nil, errors.Join(err, removeParts(dir, paths))
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// removeParts undoes what writeParts did, if it did anything.
func removeParts(dir string, paths []string) (err error) {
	if dir == "" {
		return nil
	}
	for _, path := range append(paths, dir) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
