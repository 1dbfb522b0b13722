//go:build cgo

package module

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// slot is a slot with a token in it.
type slot struct {
	number uint
	token  pkcs11.TokenInfo
}

// trim takes the padding off a field of fixed length.
func trim(s string) string { return strings.TrimRight(s, " \x00") }

// selector returns what identifies the token.
func (s slot) selector() token.Selector {
	return token.Selector{
		Label:        trim(s.token.Label),
		Serial:       trim(s.token.SerialNumber),
		Manufacturer: trim(s.token.ManufacturerID),
		Model:        trim(s.token.Model),
	}
}

// matches tells whether every field that want gives is that of have.
func matches(want, have token.Selector) bool {
	same := func(want, have string) bool { return want == "" || want == have }
	return same(want.Label, have.Label) && same(want.Serial, have.Serial) &&
		same(want.Manufacturer, have.Manufacturer) && same(want.Model, have.Model)
}

// find finds the one initialised token that matches. m.mu is held.
func (m *Module) find(want token.Selector) (slot, error) {
	numbers, err := m.calls.GetSlotList(true)
	if err != nil {
		return slot{}, failed("C_GetSlotList", err)
	}
	var found, others []slot
	var trouble error
	for _, number := range numbers {
		info, err := m.calls.GetTokenInfo(number)
		if err != nil { // another's token, or ours pulled out just now
			trouble = failed("C_GetTokenInfo", err)
			continue
		}
		s := slot{number, info}
		switch {
		case info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
		case matches(want, s.selector()):
			found = append(found, s)
		default:
			others = append(others, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return slot{}, token.Errorf(token.CodeAbsent, "the module %s sees no such token%s%s", m.path, list(" but ", others), because(trouble))
	}
	return slot{}, token.Errorf(token.CodeNoKey, "more than one token fits%s: add serial=", list(": ", found))
}

// list describes slots, after a word if there are any.
func list(word string, slots []slot) string {
	if len(slots) == 0 {
		return ""
	}
	var tokens []string
	for _, s := range slots {
		tokens = append(tokens, fmt.Sprintf("%q (serial=%s)", s.selector().Label, url.PathEscape(s.selector().Serial)))
	}
	return word + strings.Join(tokens, ", ")
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
