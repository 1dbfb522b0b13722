// Package pkcs11uri reads PKCS #11 URIs (RFC 7512), the names of keys on tokens:
//
//	pkcs11:token=hsm1;object=seal;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/balancer/pin&x-sealed=front.sealed
//
// It is narrower than the RFC. Attributes that cannot be honoured are refused: slots,
// which are numbered again at every start, and libraries by their description;
// certificates and data; attributes that are not known, empty or given twice.
// pin-value is refused, since configuration files are read by many. x-sealed is
// an attribute of our own, the path of a sealed key.
//
// No error repeats any part of the input but the names of known attributes:
// someone may have written a PIN into it.
package pkcs11uri

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"onionbalancer/keystore/token/pin"
)

// Scheme begins every PKCS #11 URI, in letters of either case.
const Scheme = "pkcs11:"

// maxSize is far above the size of any URI that can be honoured.
const maxSize = 8 << 10 // 8 KiB

// URI is a PKCS #11 URI, decoded. Empty fields are attributes that were not
// given.
type URI struct {
	// The label and the like of the token.
	Label, Serial, Manufacturer, Model string

	Object string // CKA_LABEL of the key
	ID     []byte // CKA_ID of the key
	Type   string // "private" or "secret-key"; the use of a key implies it

	ModulePath string // of the PKCS #11 library
	PINSource  string // as pin.Parse reads it
	Sealed     string // x-sealed: path of a sealed identity key
}

// Is reports whether s is meant to be a PKCS #11 URI.
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

// check refuses contradictory combinations.
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

// attribute is how an attribute is kept in a URI.
type attribute struct {
	field   func(*URI) *string // nil for id
	max     int                // size in bytes
	only    []string           // the values it may have, if not any
	refused string             // why it is never taken
}

// The sizes are those of CK_TOKEN_INFO's fields.
var pathAttributes = map[string]attribute{
	"token":        {field: func(u *URI) *string { return &u.Label }, max: 32},
	"manufacturer": {field: func(u *URI) *string { return &u.Manufacturer }, max: 32},
	"model":        {field: func(u *URI) *string { return &u.Model }, max: 16},
	"serial":       {field: func(u *URI) *string { return &u.Serial }, max: 16},
	"object":       {field: func(u *URI) *string { return &u.Object }, max: 255},
	"id":           {max: 255},
	"type":         {field: func(u *URI) *string { return &u.Type }, max: 16, only: []string{"private", "secret-key"}},

	"slot-id":              {refused: whySlot},
	"slot-description":     {refused: whySlot},
	"slot-manufacturer":    {refused: whySlot},
	"library-description":  {refused: whyLibrary},
	"library-manufacturer": {refused: whyLibrary},
	"library-version":      {refused: whyLibrary},
}

var queryAttributes = map[string]attribute{
	"module-path": {field: func(u *URI) *string { return &u.ModulePath }, max: 4 << 10},
	"pin-source":  {field: func(u *URI) *string { return &u.PINSource }, max: 4 << 10},
	"x-sealed":    {field: func(u *URI) *string { return &u.Sealed }, max: 4 << 10},

	"pin-value":   {refused: "a PIN does not belong into a configuration or an argument, where others can read it; use pin-source"},
	"module-name": {refused: "names are resolved differently on every system; give module-path, the library's file"},
}

const (
	whySlot    = "slots change at every start; name the token by its label or serial number: token, serial"
	whyLibrary = "give module-path, the library's file, and name the token by token and serial"
)

// set keeps a decoded value.
func (a attribute) set(u *URI, value []byte) error {
	if len(value) > a.max {
		return fmt.Errorf("%d bytes are too many, at most %d can be matched", len(value), a.max)
	}
	if a.field == nil {
		u.ID = value
		return nil
	}
	text := string(value)
	if !utf8.ValidString(text) {
		return errors.New("not UTF-8")
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("it has control characters")
	}
	if a.only != nil && !slices.Contains(a.only, text) {
		return fmt.Errorf("only keys that unseal or sign are of use, of type %s", strings.Join(a.only, " or "))
	}
	*a.field(u) = text
	return nil
}

// What stands for itself in a value, beside letters and digits (RFC 7512,
// section 2.3: unreserved, pk11-res-avail, and one more each).
const (
	plain      = "-._~" + ":[]@!$'()*+,="
	pathExtra  = plain + "&"
	queryExtra = plain + "/?|"
)

// decode undoes percent encoding and refuses characters that must be encoded.
func decode(s, extra string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if len(s)-i < 3 {
				return nil, errors.New("cut short after %")
			}
			b, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return nil, errors.New("two hexadecimal digits must follow %; % itself is written %25")
			}
			out = append(out, b[0])
			i += 2
		case alphanumeric(c) || strings.IndexByte(extra, c) >= 0:
			out = append(out, c)
		case c == ' ':
			return nil, errors.New("a space is written %20")
		default:
			return nil, fmt.Errorf("the byte at position %d must be written as %% and two hexadecimal digits", i+1)
		}
	}
	return out, nil
}

// encode is the opposite of decode. Plain characters are kept, so that paths stay
// readable.
func encode(s, extra string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		if alphanumeric(c) || strings.IndexByte(extra, c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// String writes u as Parse reads it, attributes in a fixed order. It holds no
// secret.
func (u *URI) String() string {
	var path, query []string
	add := func(to *[]string, name, value, extra string) {
		if value != "" {
			*to = append(*to, name+"="+encode(value, extra))
		}
	}
	add(&path, "token", u.Label, pathExtra)
	add(&path, "manufacturer", u.Manufacturer, pathExtra)
	add(&path, "model", u.Model, pathExtra)
	add(&path, "serial", u.Serial, pathExtra)
	add(&path, "object", u.Object, pathExtra)
	if len(u.ID) > 0 {
		var id strings.Builder
		for _, c := range u.ID { // all of it, as RFC 7512, section 2.3, advises
			fmt.Fprintf(&id, "%%%02X", c)
		}
		path = append(path, "id="+id.String())
	}
	add(&path, "type", u.Type, pathExtra)
	add(&query, "module-path", u.ModulePath, queryExtra)
	add(&query, "pin-source", u.PINSource, queryExtra)
	add(&query, "x-sealed", u.Sealed, queryExtra)
	s := Scheme + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}
