//go:build cgo

package module

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// key is a private or secret key on the token.
type key struct {
	handle pkcs11.ObjectHandle
	kind   uint // CKK_…
	object token.Object
}

// kinds are the names of key types.
var kinds = map[uint]string{
	pkcs11.CKK_AES: "AES", pkcs11.CKK_RSA: "RSA", pkcs11.CKK_EC: "EC", ckkECEdwards: "Edwards",
	pkcs11.CKK_GENERIC_SECRET: "generic secret", pkcs11.CKK_DES3: "triple DES",
}

func kindName(kind uint) string {
	if name, ok := kinds[kind]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%X", kind)
}

// describe names a key for people.
func describe(o token.Object) string {
	if o.Label != "" {
		return fmt.Sprintf("key %q", o.Label)
	}
	return "key id=" + percent(o.ID)
}

// percent writes an ID as in a pkcs11: URI.
func percent(id []byte) string {
	var b strings.Builder
	for _, c := range id {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// read reads what a key is.
func (s *session) read(handle pkcs11.ObjectHandle) (key, error) {
	k := key{handle: handle}
	kind, err := s.attribute(handle, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return key{}, err
	}
	k.kind, _ = number(kind)
	label, err := s.attribute(handle, pkcs11.CKA_LABEL)
	if err != nil {
		return key{}, err
	}
	k.object.Label = string(label)
	k.object.ID, err = s.attribute(handle, pkcs11.CKA_ID)
	return k, err
}

// keys returns the keys of a class.
func (s *session) keys(class uint, having ...*pkcs11.Attribute) ([]key, error) {
	handles, err := s.objects(append(having, attr(pkcs11.CKA_CLASS, class))...)
	if err != nil {
		return nil, err
	}
	var all []key
	for _, handle := range handles {
		k, err := s.read(handle)
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return all, nil
}

// key finds the one private or secret key that o means and that is of one of
// these types.
func (s *session) key(o token.Object, kinds ...uint) (key, error) {
	if o.Label == "" && len(o.ID) == 0 {
		return key{}, token.Errorf(token.CodeMisuse, "no key is named: add object= or id=")
	}
	var found, others []key
	for _, class := range []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY} {
		keys, err := s.keys(class, template(o)...)
		if err != nil {
			return key{}, err
		}
		for _, k := range keys {
			if slices.Contains(kinds, k.kind) {
				found = append(found, k)
			} else {
				others = append(others, k)
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return key{}, token.Errorf(token.CodeNoKey, "there is more than one such key: %s: name both object= and id=", listKeys(found))
	case len(others) > 0:
		return key{}, token.Errorf(token.CodeUnsupported, "it is no key for this: %s", listKeys(others))
	}
	return key{}, s.missing()
}

// missing is the error for a key that is not there; it lists some that are.
func (s *session) missing() error {
	var all []key
	for _, class := range []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY} {
		keys, err := s.keys(class)
		if err != nil {
			return err
		}
		all = append(all, keys...)
	}
	if len(all) == 0 {
		return token.Errorf(token.CodeNoKey, "there is no such key; the token has none")
	}
	return token.Errorf(token.CodeNoKey, "there is no such key; the token has %s", listKeys(all))
}

func listKeys(keys []key) string {
	var names []string
	for _, k := range keys {
		if len(names) == 10 {
			names = append(names, "…")
			break
		}
		names = append(names, fmt.Sprintf("object=%s;id=%s (%s)", url.PathEscape(k.object.Label), percent(k.object.ID), kindName(k.kind)))
	}
	return strings.Join(names, ", ")
}
