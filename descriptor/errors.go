package descriptor

import (
	"errors"
	"fmt"
	"strings"
)

// Layer names the part of a descriptor that an error is about.
type Layer string

// The three texts that a descriptor consists of (rend-spec-v3, sections 2.4,
// 2.5.1 and 2.5.2).
const (
	LayerOuter  Layer = "outer wrapper"
	LayerFirst  Layer = "first layer"
	LayerSecond Layer = "second layer"
)

// ErrClientKey is what a Decode error wraps when the second layer does not
// open: the descriptor needs client authorization and no client key, or
// another service's, was given. A damaged second layer looks the same.
var ErrClientKey = errors.New("needs client authorization, and no client key given opens it")

// ErrTooLarge is wrapped by errors about a descriptor of too many bytes.
var ErrTooLarge = errors.New("too large")

// ErrNotOurs is what a Decode error wraps when the descriptor is signed, but
// for another blinded key than the one asked for: another service, another
// period, or a forgery.
var ErrNotOurs = errors.New("made for another blinded key")

// ParseError says where a descriptor departs from the format.
type ParseError struct {
	Layer   Layer
	Line    int    // from 1, within the layer's plaintext; 0 if no single line is at fault
	Keyword string // of the line at fault or missing; empty if there is none
	Err     error
}

// Error names the place, then the fault.
func (e *ParseError) Error() string {
	var b strings.Builder
	b.WriteString("descriptor, ")
	b.WriteString(string(e.Layer))
	if e.Line > 0 {
		fmt.Fprintf(&b, ", line %d", e.Line)
	}
	if e.Keyword != "" {
		fmt.Fprintf(&b, ", %q", e.Keyword)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the fault.
func (e *ParseError) Unwrap() error { return e.Err }
