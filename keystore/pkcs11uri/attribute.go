package pkcs11uri

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

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
	whySlot    = "slots change at every start; name the token by what is written on it: token, serial"
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
