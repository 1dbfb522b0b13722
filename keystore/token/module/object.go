//go:build cgo

package module

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
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

// read reads a key's attributes.
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

// template returns the common attributes of all objects that o means.
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

// yes and no report the value of a CK_BBOOL; both are false of one that is missing.
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

// ofPoint reads CKA_EC_POINT of an Ed25519 or a P-256 key; nil if it is neither.
func ofPoint(kind uint, point []byte) crypto.PublicKey {
	switch kind {
	case ckkECEdwards:
		if raw := unwrapPoint(point, ed25519.PublicKeySize); raw != nil {
			return ed25519.PublicKey(raw)
		}
	case pkcs11.CKK_EC:
		if raw := unwrapPoint(point, 65); raw != nil {
			if key, err := ecdh.P256().NewPublicKey(raw); err == nil { // no other curve has it
				return key
			}
		}
	}
	return nil
}

// unwrapPoint returns a point of size bytes: as PKCS #11 wants it, in a DER OCTET
// STRING, or bare, or in a BIT STRING as in certificates; modules do all three.
func unwrapPoint(point []byte, size int) []byte {
	switch n := len(point); {
	case n == size:
		return point
	case n == size+2 && point[0] == 0x04 && int(point[1]) == size:
		return point[2:]
	case n == size+3 && point[0] == 0x03 && int(point[1]) == size+1 && point[2] == 0:
		return point[3:]
	}
	return nil
}

// ofModulus makes an RSA public key, nil if a part is missing or absurd.
func ofModulus(modulus, exponent []byte) crypto.PublicKey {
	e := new(big.Int).SetBytes(exponent)
	n := new(big.Int).SetBytes(modulus)
	if n.Sign() == 0 || e.BitLen() < 2 || e.BitLen() > 31 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

// ofCertificate returns the public key in an X.509 certificate, nil if it is not
// of this kind.
func ofCertificate(kind uint, der []byte) crypto.PublicKey {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	switch public := certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		if kind == pkcs11.CKK_RSA {
			return public
		}
	case *ecdsa.PublicKey:
		if point, err := public.ECDH(); err == nil && kind == pkcs11.CKK_EC && point.Curve() == ecdh.P256() {
			return point
		}
	case ed25519.PublicKey:
		if kind == ckkECEdwards {
			return public
		}
	}
	return nil
}

// companions returns the objects of a class that belong to a private key: they
// have its CKA_ID. Those that have its label too come first.
func (s *session) companions(k key, class uint) ([]pkcs11.ObjectHandle, error) {
	having := []*pkcs11.Attribute{attr(pkcs11.CKA_CLASS, class)}
	if len(k.object.ID) == 0 {
		return s.objects(append(having, template(k.object)...)...)
	}
	handles, err := s.objects(append(having, attr(pkcs11.CKA_ID, k.object.ID))...)
	if err != nil || len(handles) < 2 {
		return handles, err
	}
	var first, rest []pkcs11.ObjectHandle
	for _, handle := range handles {
		label, err := s.attribute(handle, pkcs11.CKA_LABEL)
		switch {
		case err != nil:
			return nil, err
		case bytes.Equal(label, []byte(k.object.Label)):
			first = append(first, handle)
		default:
			rest = append(rest, handle)
		}
	}
	return append(first, rest...), nil
}

// public returns the public half of a private key, from wherever the token has
// it: an *rsa.PublicKey, an *ecdh.PublicKey of P-256, or an ed25519.PublicKey. The
// error is of CodeNoKey if there is none, and of CodeUnsupported if it is another.
func (s *session) public(k key) (crypto.PublicKey, error) {
	code := token.CodeNoKey
	look := func(handles []pkcs11.ObjectHandle, read func(pkcs11.ObjectHandle) (crypto.PublicKey, bool, error)) (crypto.PublicKey, error) {
		for _, handle := range handles {
			public, present, err := read(handle)
			if public != nil || err != nil {
				return public, err
			}
			if present {
				code = token.CodeUnsupported
			}
		}
		return nil, nil
	}
	inKey := func(h pkcs11.ObjectHandle) (crypto.PublicKey, bool, error) { return s.material(k.kind, h) }
	inCertificate := func(h pkcs11.ObjectHandle) (crypto.PublicKey, bool, error) {
		der, err := s.attribute(h, pkcs11.CKA_VALUE)
		return ofCertificate(k.kind, der), false, err
	}
	public, err := look([]pkcs11.ObjectHandle{k.handle}, inKey)
	if public != nil || err != nil {
		return public, err
	}
	for _, class := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_CERTIFICATE} {
		handles, err := s.companions(k, class)
		if err != nil {
			return nil, err
		}
		read := inKey
		if class == pkcs11.CKO_CERTIFICATE {
			read = inCertificate
		}
		if public, err := look(handles, read); public != nil || err != nil {
			return public, err
		}
	}
	if code == token.CodeUnsupported {
		return nil, token.Errorf(code, "this %s key is on a curve that cannot be used here: %s", kindName(k.kind), recipe(k.kind))
	}
	return nil, token.Errorf(code, "the token has no public key or certificate with the ID of this %s key", kindName(k.kind))
}

// material returns the public key in an object's attributes, or nil, and whether
// there is any at all.
func (s *session) material(kind uint, handle pkcs11.ObjectHandle) (public crypto.PublicKey, present bool, err error) {
	if kind != pkcs11.CKK_RSA {
		point, err := s.attribute(handle, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, false, err
		}
		return ofPoint(kind, point), len(point) > 0, nil
	}
	modulus, err := s.attribute(handle, pkcs11.CKA_MODULUS)
	if err != nil {
		return nil, false, err
	}
	exponent, err := s.attribute(handle, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, false, err
	}
	return ofModulus(modulus, exponent), len(modulus) > 0, nil
}
