//go:build cgo

package module

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
)

// pointSize is that of an uncompressed point of P-256.
const pointSize = 65

// wrapECDH returns the public point of a new key (65 bytes) and the box (48
// bytes). The token is only asked for its public key. The box is AES-256-GCM,
// with the nonce zero, under a key that HKDF-SHA256 makes of what the two keys
// share; both points are its salt.
func wrapECDH(s *session, k key, plain []byte) (wrapped []byte, err error) {
	theirs, err := s.point(k)
	if err != nil {
		return nil, err
	}
	locked.Do(func() {
		var ours *ecdh.PrivateKey
		if ours, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
			return
		}
		point := ours.PublicKey().Bytes()
		var shared []byte
		if shared, err = ours.ECDH(theirs); err != nil {
			return
		}
		var box cipher.AEAD
		if box, err = boxer(shared, point, theirs); err == nil {
			wrapped = box.Seal(point, make([]byte, box.NonceSize()), plain, []byte(purpose))
		}
	})
	return wrapped, err
}

func unwrapECDH(s *session, k key, wrapped []byte) (*locked.Buffer, error) {
	if len(wrapped) != pointSize+secretSize+tagBits/8 {
		return nil, errDamaged()
	}
	point := wrapped[:pointSize]
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, errDamaged()
	}
	ours, err := s.point(k)
	if err != nil {
		return nil, err
	}
	shared, err := s.derive(k, point)
	if err != nil {
		return nil, err
	}
	defer shared.Wipe()
	secret := locked.New(secretSize)
	locked.Do(func() {
		var box cipher.AEAD
		if box, err = boxer(shared.Bytes(), point, ours); err == nil {
			_, err = box.Open(secret.Bytes()[:0], make([]byte, box.NonceSize()), wrapped[pointSize:], []byte(purpose))
		}
	})
	if err != nil {
		return nil, errDamaged()
	}
	return secret, nil
}

// point returns the public half of the key.
func (s *session) point(k key) (*ecdh.PublicKey, error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	return public.(*ecdh.PublicKey), nil // public returns what fits k.kind
}

// boxer makes the AEAD of one ephemeral key.
func boxer(shared, point []byte, theirs *ecdh.PublicKey) (cipher.AEAD, error) {
	salt := append(append([]byte(nil), point...), theirs.Bytes()...)
	secret, err := hkdf.Key(sha256.New, shared, salt, purpose+", ecdh-p256", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// derive has the token multiply a point by its private key, and returns the
// product's x coordinate: 32 bytes. Most modules want the bare point, some the
// point in a DER OCTET STRING; PKCS #11 allows both.
func (s *session) derive(k key, point []byte) (*locked.Buffer, error) {
	octets := append([]byte{0x04, pointSize}, point...)
	bare := mechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point))
	if _, err := s.may(k, bare, pkcs11.CKF_DERIVE, pkcs11.CKA_DERIVE, 0, 0); err != nil {
		return nil, err
	}
	template := append(transient(), attr(pkcs11.CKA_VALUE_LEN, secretSize))
	object, err := s.calls.DeriveKey(s.handle, bare, k.handle, template)
	if is(err, pkcs11.CKR_MECHANISM_PARAM_INVALID) || is(err, pkcs11.CKR_ARGUMENTS_BAD) {
		wrapped := mechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, octets))
		object, err = s.calls.DeriveKey(s.handle, wrapped, k.handle, template)
	}
	if err != nil {
		return nil, failed("C_DeriveKey", err)
	}
	return s.reveal(object)
}
