//go:build cgo

package module

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"math/big"

	"github.com/miekg/pkcs11"
)

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
