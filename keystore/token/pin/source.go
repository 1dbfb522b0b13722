// Package pin reads the PINs of tokens from where an operator keeps them: a
// file, a systemd credential, an inherited descriptor, or a question on the
// terminal. A PIN is never an argument, a variable of the environment, or part
// of a configuration file, and no error repeats one.
package pin

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"onionbalancer/internal/openfile"
)

// Source is where a PIN comes from. It is comparable and holds no PIN; the zero
// value is a token that needs none, or that has its own way to ask for it.
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
// none: systemd makes its file anew whenever it starts the service.
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
