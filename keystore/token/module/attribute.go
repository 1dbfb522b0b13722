//go:build cgo

package module

import (
	"encoding/binary"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// template returns what every object that o means has.
func template(o token.Object) []*pkcs11.Attribute {
	var t []*pkcs11.Attribute
	if o.Label != "" {
		t = append(t, attr(pkcs11.CKA_LABEL, o.Label))
	}
	if len(o.ID) > 0 {
		t = append(t, attr(pkcs11.CKA_ID, o.ID))
	}
	return t
}

// objects returns the handles of all objects with these attributes.
func (s *session) objects(template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := s.calls.FindObjectsInit(s.handle, template); err != nil {
		return nil, failed("C_FindObjectsInit", err)
	}
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := s.calls.FindObjects(s.handle, 100)
		if err != nil {
			_ = s.calls.FindObjectsFinal(s.handle)
			return nil, failed("C_FindObjects", err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := s.calls.FindObjectsFinal(s.handle); err != nil {
		return nil, failed("C_FindObjectsFinal", err)
	}
	if len(all) == 0 {
		return nil, s.alive() // or is there nothing because the token is gone?
	}
	return all, nil
}

// attribute returns an attribute's value, nil if the object has none that the
// token tells.
func (s *session) attribute(o pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	values, err := s.calls.GetAttributeValue(s.handle, o, []*pkcs11.Attribute{attr(kind, nil)})
	switch {
	case err == nil && len(values) == 1:
		return values[0].Value, nil
	case err == nil, is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID), is(err, pkcs11.CKR_ATTRIBUTE_SENSITIVE):
		return nil, nil
	}
	return nil, failed("C_GetAttributeValue", err)
}

// yes and no tell what a CK_BBOOL says; both are false of one that is missing.
func yes(value []byte) bool { return len(value) == 1 && value[0] != 0 }
func no(value []byte) bool  { return len(value) == 1 && value[0] == 0 }

// number returns a CK_ULONG.
func number(value []byte) (uint, bool) {
	switch len(value) {
	case 8:
		return uint(binary.NativeEndian.Uint64(value)), true
	case 4:
		return uint(binary.NativeEndian.Uint32(value)), true
	}
	return 0, false
}
