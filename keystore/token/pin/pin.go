// Package pin reads the PINs of tokens from where an operator keeps them: a
// file, a systemd credential, an inherited descriptor, or a question on the
// terminal. A PIN is never an argument, a variable of the environment, or part
// of a configuration file, and no error repeats one.
package pin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
)

// Source is where a PIN comes from. It is comparable and holds no PIN; the zero
// value is a token that needs none, or that has its own PIN pad.
type Source struct {
	kind  kind
	value string // path, name of a credential, or number of a descriptor
}

type kind int

const (
	kindNone kind = iota
	kindFile
	kindCredential
	kindDescriptor
	kindPrompt
)

const forms = "a PIN comes from file:PATH, credential:NAME, fd:N or prompt"

// Parse reads a source as it stands behind pin-source= in a PKCS #11 URI:
// "file:PATH" or a PATH, "credential:NAME" of systemd's LoadCredential,
// "fd:N", or "prompt". Errors do not repeat s, in which someone may have put
// the PIN itself.
func Parse(s string) (Source, error) {
	source, err := parse(s)
	if err != nil {
		return Source{}, fmt.Errorf("reading pin-source: %w", err)
	}
	return source, nil
}

func parse(s string) (Source, error) {
	scheme, rest, found := strings.Cut(s, ":")
	switch {
	case s == "":
		return Source{}, nil
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Source{}, errors.New("it has control characters")
	case strings.HasPrefix(s, "|"):
		return Source{}, errors.New("a command to run is not taken; " + forms)
	case s == "prompt":
		return Source{kind: kindPrompt}, nil
	case !found || strings.Contains(scheme, "/"):
		return file(s)
	}
	switch scheme {
	case "file":
		// file:///PATH is the same file as file:/PATH.
		if path, ok := strings.CutPrefix(rest, "//"); ok {
			if !strings.HasPrefix(path, "/") {
				return Source{}, errors.New("a file on another host; write file:PATH")
			}
			rest = path
		}
		return file(rest)
	case "credential":
		if _, err := openfile.IsCredential(s); err != nil {
			return Source{}, err
		}
		return Source{kindCredential, rest}, nil
	case "fd":
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n > maxDescriptor || strconv.Itoa(n) != rest {
			return Source{}, errors.New("fd: needs the number of an inherited descriptor, such as fd:3")
		}
		return Source{kindDescriptor, rest}, nil
	}
	return Source{}, errors.New("unknown scheme; " + forms + "; a file's name with a colon in it is written ./NAME")
}

func file(path string) (Source, error) {
	if path == "" || strings.HasSuffix(path, "/") {
		return Source{}, errors.New("no file is named; " + forms)
	}
	// Behind "file:", two slashes would begin the name of a host.
	if strings.HasPrefix(path, "//") {
		path = "/" + strings.TrimLeft(path, "/")
	}
	return Source{kindFile, path}, nil
}

// Resolve returns the source with the path of a file made relative to dir,
// unless it is absolute.
func (s Source) Resolve(dir string) Source {
	if s.kind == kindFile && !filepath.IsAbs(s.value) {
		s.value = filepath.Join(dir, s.value)
	}
	return s
}

// Once says that the PIN is read but once in the life of this process.
func (s Source) Once() bool { return s.kind == kindDescriptor || s.kind == kindPrompt }

// File returns the path of the file that the PIN is in. A credential counts as
// none: systemd makes a new file whenever it starts the service.
func (s Source) File() (path string, ok bool) {
	return s.value, s.kind == kindFile && !isCredential(s.value)
}

// ByHand says that a person types the PIN each time that one is wanted.
func (s Source) ByHand() bool { return s.kind == kindPrompt || s.kind == kindNone }

// String writes the source as Parse reads it.
func (s Source) String() string {
	switch s.kind {
	case kindFile:
		return "file:" + s.value
	case kindCredential:
		return "credential:" + s.value
	case kindDescriptor:
		return "fd:" + s.value
	case kindPrompt:
		return "prompt"
	}
	return ""
}

// maxSize is the longest PIN in bytes, more than any token accepts.
const maxSize = 256

// Read returns the PIN, 1 to 256 bytes, which the caller wipes; nil if s is
// zero. Files and credentials are read each time. A descriptor is read
// until its end and a person is asked only once in the life of the process, the
// person once for each token; name says for which. Read may be called
// concurrently, and waits for one question or descriptor at a time.
func (s Source) Read(ctx context.Context, name string) (*locked.Buffer, error) {
	var pin *locked.Buffer
	var err error
	switch s.kind {
	case kindNone:
		return nil, nil
	case kindFile:
		pin, err = readFile(s.value)
	case kindCredential:
		pin, err = readCredential(s.String())
	case kindDescriptor:
		pin, err = once(ctx, s.String(), func() (*locked.Buffer, error) { return readDescriptor(ctx, s.value) })
	case kindPrompt:
		pin, err = once(ctx, s.String()+" "+name, func() (*locked.Buffer, error) { return prompt(ctx, name) })
	}
	if err != nil {
		return nil, fmt.Errorf("reading the PIN from %s: %w", s, err)
	}
	return pin, nil
}

// once remembers PINs that can be had only once. The channel is held while one
// is got, and guards the map.
var (
	getting    = make(chan struct{}, 1)
	remembered = map[string]*locked.Buffer{}
)

func once(ctx context.Context, key string, get func() (*locked.Buffer, error)) (*locked.Buffer, error) {
	select {
	case getting <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-getting }()
	if kept := remembered[key]; kept != nil {
		return kept.Clone(), nil
	}
	pin, err := get()
	if err != nil {
		return nil, err
	}
	remembered[key] = pin.Clone()
	return pin, nil
}

// trim moves the input into the first n bytes of b, cuts off the newline,
// and wipes b. It rejects what cannot be a PIN rather than waste a login attempt.
func trim(b *locked.Buffer, n int) (pin *locked.Buffer, err error) {
	defer b.Wipe()
	b.Use(func(text []byte) { pin, err = trimText(text[:n]) })
	return pin, err
}

func trimText(text []byte) (*locked.Buffer, error) {
	text = bytes.TrimSuffix(text, []byte("\n"))
	switch {
	case len(text) == 0:
		return nil, errors.New("it is empty")
	case len(text) > maxSize:
		return nil, fmt.Errorf("there are more than %d bytes; is it the right place?", maxSize)
	case bytes.IndexByte(text, '\n') >= 0:
		return nil, errors.New("there is more than one line")
	case bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, errors.New("there are control characters, such as a tabulator or a carriage return")
	}
	return locked.Copy(text), nil
}

// room is for the longest PIN, its newline, and one byte that shows that there
// is more.
const room = maxSize + 2

// claimed are the descriptors that Claim has looked at, and whether they were
// inherited.
var claimed sync.Map
