//go:build cgo

package module

import (
	"bytes"
	"crypto"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

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
		return nil, token.Errorf(code, "this %s key is on a curve that is of no use here: %s", kindName(k.kind), recipe(k.kind))
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
