// Package pkcs11uri reads PKCS #11 URIs (RFC 7512), the names of keys on tokens:
//
//	pkcs11:token=hsm1;object=seal;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/balancer/pin&x-sealed=front.sealed
//
// It is narrower than the RFC. What could not be honoured is refused: slots,
// which are numbered anew at every start, and libraries by their description;
// certificates and data; attributes that are not known, empty or given twice.
// pin-value is refused, since configuration files are read by many. x-sealed is
// an attribute of our own, the path of a sealed key.
//
// No error repeats any part of the input but the names of known attributes:
// someone may have written a PIN into it.
package pkcs11uri

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/keystore/token/pin"
)

// Scheme begins every PKCS #11 URI, in letters of either case.
const Scheme = "pkcs11:"

// maxSize is far above the size of any URI that can be honoured.
const maxSize = 8 << 10 // 8 KiB

// URI is a PKCS #11 URI, decoded. Empty fields are attributes that were not
// given.
type URI struct {
	// What is written on the token.
	Label, Serial, Manufacturer, Model string

	Object string // CKA_LABEL of the key
	ID     []byte // CKA_ID of the key
	Type   string // "private" or "secret-key"; what a key is used for tells as much

	ModulePath string // of the PKCS #11 library
	PINSource  string // as pin.Parse reads it
	Sealed     string // x-sealed: path of a sealed identity key
}

// Is tells whether s is meant to be a PKCS #11 URI.
func Is(s string) bool {
	return len(s) >= len(Scheme) && strings.EqualFold(s[:len(Scheme)], Scheme)
}

// Parse reads a URI.
func Parse(s string) (*URI, error) {
	u, err := parse(s)
	if err != nil {
		return nil, fmt.Errorf("reading PKCS #11 URI: %w", err)
	}
	return u, nil
}

func parse(s string) (*URI, error) {
	if !Is(s) {
		return nil, fmt.Errorf("it does not begin with %q", Scheme)
	}
	if len(s) > maxSize {
		return nil, fmt.Errorf("%d bytes are too many", len(s))
	}
	path, query, hasQuery := strings.Cut(s[len(Scheme):], "?")
	u := new(URI)
	if path != "" {
		if err := u.read(strings.Split(path, ";"), pathAttributes, pathExtra); err != nil {
			return nil, err
		}
	}
	if hasQuery {
		if err := u.read(strings.Split(query, "&"), queryAttributes, queryExtra); err != nil {
			return nil, err
		}
	}
	return u, u.check()
}

// read sets the fields that attributes name.
func (u *URI) read(attributes []string, known map[string]attribute, extra string) error {
	for i, text := range attributes {
		name, value, found := strings.Cut(text, "=")
		a, isKnown := known[name]
		switch {
		case !found:
			return fmt.Errorf("part %d has no %q, want NAME=VALUE", i+1, "=")
		case !isKnown:
			return misnamed(i, name, known)
		case a.refused != "":
			return fmt.Errorf("%s: %s", name, a.refused)
		case value == "":
			return fmt.Errorf("%s is empty: leave it out", name)
		case slices.ContainsFunc(attributes[:i], func(earlier string) bool { return strings.HasPrefix(earlier, name+"=") }):
			return fmt.Errorf("%s is given twice", name)
		}
		raw, err := decode(value, extra)
		if err == nil {
			err = a.set(u, raw)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// misnamed explains an attribute that is not known where it stands.
func misnamed(i int, name string, known map[string]attribute) error {
	for _, other := range []map[string]attribute{pathAttributes, queryAttributes} {
		if _, ok := other[name]; ok {
			return fmt.Errorf("%s stands on the wrong side of the %q", name, "?")
		}
	}
	names := make([]string, 0, len(known))
	for name, a := range known {
		if a.refused == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return fmt.Errorf("attribute %d is not known; known here are %s", i+1, strings.Join(names, ", "))
}

// check refuses what makes no sense together.
func (u *URI) check() error {
	if _, err := pin.Parse(u.PINSource); err != nil {
		return err
	}
	if u.Sealed != "" && u.Object == "" && len(u.ID) == 0 {
		return errors.New("x-sealed needs object or id, the key on the token that unseals")
	}
	return nil
}

// Resolve returns a copy in which the paths of the sealed key, of the file with
// the PIN and of the module are relative to dir, unless they are absolute. A
// module without a slash is for the dynamic linker to find.
func (u *URI) Resolve(dir string) *URI {
	r := *u
	r.ID = slices.Clone(u.ID)
	if strings.Contains(r.ModulePath, "/") {
		r.ModulePath = within(dir, r.ModulePath)
	}
	if r.Sealed != "" {
		r.Sealed = within(dir, r.Sealed)
	}
	if source, err := pin.Parse(u.PINSource); err == nil {
		r.PINSource = source.Resolve(dir).String()
	}
	return &r
}

func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
