package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
)

// maxSize is far above the size of a configuration of thousands of instances.
const maxSize = 1 << 20 // 1 MiB

// Load reads and checks the file at path.
func Load(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	var data []byte
	if err == nil {
		data, err = readUpTo(path, maxSize+1)
	}
	switch {
	case errors.Is(err, syscall.EISDIR):
		return nil, fault(path, 0, "is a directory; name the file in it%s", tomlIn(path))
	case errors.Is(err, fs.ErrPermission):
		gid := os.Getegid()
		return nil, fmt.Errorf("reading the configuration: %w: this program runs with group %d: run as root: chgrp %d %s && chmod 640 %[4]s",
			err, gid, gid, shell.Quote(path))
	case err != nil:
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(data, path)
}

func readUpTo(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, size))
}

// tomlIn names the configuration in a directory, if there is one that can be meant.
func tomlIn(dir string) string {
	if files, _ := filepath.Glob(filepath.Join(dir, "*.toml")); len(files) == 1 {
		return ": --config " + shell.Quote(files[0])
	}
	return ""
}

// Parse reads and checks a configuration. Relative paths in it are taken
// relative to the directory of path, an absolute path that is not opened. An
// error lists every complaint, in the order of their lines, each an *Error.
func Parse(data []byte, path string) (*Config, error) {
	if other := foreign(data, path); other != nil {
		return nil, other
	}
	if len(data) > maxSize {
		return nil, fault(path, 0, "is larger than %d bytes, is it the right file?", maxSize)
	}
	for n, line := range bytes.SplitAfter(data, []byte("\n")) {
		if !utf8.Valid(line) {
			return nil, fault(path, n+1, "is not UTF-8 text")
		}
	}
	found, tooDeep := locate(string(data))
	if tooDeep > 0 {
		return nil, fault(path, tooDeep, "nested deeper than %d, or a key longer than %d", maxDepth, maxKey)
	}
	values := make(map[string]any)
	if _, err := toml.Decode(string(data), &values); err != nil {
		if other := otherFormat(data, path); other != nil {
			return nil, other
		}
		return nil, syntaxErrors(string(data), path)
	}
	r := &reader{complaints: complaints{file: path, lines: found}, dir: filepath.Dir(path), given: make(map[string]bool)}
	c := &Config{File: path, lines: found}
	r.table(reflect.ValueOf(c).Elem(), "", values)
	r.validate(c)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// StateDir returns the state directory that the file at path names, for a file
// that Load refuses: a daemon that read it while it was good still uses that
// one. Values that cannot be read from the file are the defaults. It reads by lines, since
// a file with one bad line cannot be read as a whole.
func StateDir(path string) string {
	dir := "state"
	text, _ := readUpTo(path, maxSize) // as much as there is
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "[") {
			break // of a table: no key of the file itself comes any more
		}
		var found struct {
			StateDir string `toml:"state_dir"`
		}
		if _, err := toml.Decode(line, &found); err == nil && pathProblem(found.StateDir) == nil {
			dir = found.StateDir
			break
		}
	}
	return absolute(filepath.Dir(path), dir)
}

// Error is one complaint about the file.
type Error struct {
	File string
	Line int    // 0 if no line can be blamed
	Key  string // dotted, "service.instance.address"; empty for the file as a whole
	Err  error

	// Instead is a whole file to use in the place of this one, ready to be
	// pasted, or "".
	Instead string

	path string // Key, with indexes
}

// fault is a complaint about a line, or about the whole file.
func fault(file string, line int, format string, args ...any) *Error {
	return &Error{File: file, Line: line, Err: fmt.Errorf(format, args...)}
}

// Error writes file:line: key: complaint, the form that editors jump to.
func (e *Error) Error() string {
	text := printable.Text(e.File)
	if e.Line > 0 {
		text = fmt.Sprintf("%s:%d", text, e.Line)
	}
	if e.Key != "" {
		text += ": " + printable.Text(e.Key)
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns the complaint.
func (e *Error) Unwrap() error { return e.Err }

// Each returns the complaints in an error of Load or Parse, one by one.
func Each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// complaints gathers errors, so that an operator sees all of them at once.
type complaints struct {
	file  string
	lines lines
	list  []*Error
}

// add complains about the key at path, or its table if the key is not there.
func (c *complaints) add(path, format string, args ...any) {
	e := fault(c.file, c.lines.of(path), format, args...)
	e.Key, e.path = withoutIndexes(path), path
	c.list = append(c.list, e)
}

// err returns all complaints in the order of their lines, joined, or nil.
func (c *complaints) err() error {
	slices.SortStableFunc(c.list, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	errs := make([]error, len(c.list))
	for i, e := range c.list {
		errs[i] = e
	}
	return errors.Join(errs...)
}
