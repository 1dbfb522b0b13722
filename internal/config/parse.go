package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"onionbalancer/internal/shell"
)

// maxSize is far above what thousands of instances need.
const maxSize = 1 << 20 // 1 MiB

// Load reads and checks the file at path.
func Load(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		gid := os.Getegid()
		return nil, fmt.Errorf("reading the configuration: %w: this program runs with group %d: run as root: chgrp %d %s && chmod 640 %[4]s",
			err, gid, gid, shell.Quote(path))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if info.IsDir() {
		return nil, &Error{File: path, Err: errors.New("is a directory; name the file in it" + tomlIn(path))}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(data, path)
}

// Parse reads and checks a configuration. Relative paths in it are taken
// relative to the directory of path, an absolute path that is not opened. An
// error lists every complaint, in the order of their lines, each an *Error.
func Parse(data []byte, path string) (*Config, error) {
	if other := foreign(data, path); other != nil {
		return nil, other
	}
	if problem := unreadable(data); problem != nil {
		problem.File = path
		return nil, problem
	}
	found, tooDeep := locate(string(data))
	if tooDeep > 0 {
		return nil, &Error{File: path, Line: tooDeep, Err: fmt.Errorf("nested deeper than %d, or a key longer than %d", maxDepth, maxKey)}
	}
	values := make(map[string]any)
	if _, err := toml.Decode(string(data), &values); err != nil {
		if other := otherFormat(data, path); other != nil {
			return nil, other
		}
		return nil, syntaxErrors(string(data), path)
	}
	bad := &complaints{file: path, lines: found}
	root := &table{values: values, dir: filepath.Dir(path), bad: bad}
	c := readConfig(root, path)
	c.lines = bad.lines
	c.validate(bad)
	if err := bad.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// unreadable says what keeps data from being text that could be TOML.
func unreadable(data []byte) *Error {
	if len(data) > maxSize {
		return &Error{Err: fmt.Errorf("is larger than %d bytes, is it the right file?", maxSize)}
	}
	if utf8.Valid(data) {
		return nil
	}
	line := 1
	for _, text := range bytes.SplitAfter(data, []byte("\n")) {
		if !utf8.Valid(text) {
			break
		}
		line++
	}
	return &Error{Line: line, Err: errors.New("is not UTF-8 text")}
}

// tomlIn names the configuration in a directory, if there is one that can be meant.
func tomlIn(dir string) string {
	if files, _ := filepath.Glob(filepath.Join(dir, "*.toml")); len(files) == 1 {
		return ": --config " + shell.Quote(files[0])
	}
	return ""
}
