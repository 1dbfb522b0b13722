package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"onionbalancer/internal/printable"
)

// Error is one complaint about the file.
type Error struct {
	File string
	Line int    // 0 if no line can be blamed
	Key  string // dotted, "service.instance.address"; empty for the file as a whole
	Err  error

	// Instead is a whole file to use in the place of this one, ready to be
	// pasted, or "".
	Instead string
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

// complaints gathers errors, so that an operator sees all of them at once.
type complaints struct {
	file  string
	lines lines
	list  []*Error

	tables []*table          // that were read, to be searched for keys that nobody asked for
	homes  map[string]string // by key: the heading that it stands under
}

// add complains about the key at path, or its table if the key is not there.
func (c *complaints) add(path, format string, args ...any) {
	c.list = append(c.list, &Error{
		File: c.file, Line: c.lines.of(path), Key: withoutIndexes(path), Err: fmt.Errorf(format, args...),
	})
}

// Each returns the complaints in an error of Load or Parse, one by one.
func Each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
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
