//go:build cgo

package module

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for OAEP, where collisions do not matter
	"crypto/sha256"
	_ "crypto/sha256"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// purpose is the additional data of AES-GCM, here and in ECDH.
const purpose = "onionbalancer: data key, version 1"

const (
	ivSize  = 12
	tagBits = 128
)

// wrapGCM returns IV, cipher text and tag: 60 bytes. There are tokens that
// choose the IV themselves and write it where ours was.
func wrapGCM(s *session, k key, plain []byte) ([]byte, error) {
	iv := make([]byte, ivSize)
	rand.Read(iv)
	parameters := pkcs11.NewGCMParams(iv, []byte(purpose), tagBits)
	defer parameters.Free()
	box, err := s.encrypt(k, mechanism(pkcs11.CKM_AES_GCM, parameters), plain)
	if err != nil {
		return nil, err
	}
	if used := parameters.IV(); len(used) == ivSize {
		iv = used
	}
	return append(iv, box...), nil
}

func unwrapGCM(s *session, k key, wrapped []byte) (*locked.Buffer, error) {
	if len(wrapped) != ivSize+secretSize+tagBits/8 {
		return nil, errDamaged()
	}
	parameters := pkcs11.NewGCMParams(wrapped[:ivSize], []byte(purpose), tagBits)
	defer parameters.Free()
	return s.decrypt(k, mechanism(pkcs11.CKM_AES_GCM, parameters), wrapped[ivSize:])
}

// wrapRFC3394 returns 40 bytes.
func wrapRFC3394(s *session, k key, plain []byte) ([]byte, error) {
	return s.encrypt(k, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), plain)
}

func unwrapRFC3394(s *session, k key, wrapped []byte) (*locked.Buffer, error) {
	if len(wrapped) != secretSize+8 {
		return nil, errDamaged()
	}
	return s.decrypt(k, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), wrapped)
}

// may tells which of two functions mechanism and key allow, direct (as C_Encrypt)
// or by way of a key object (as C_WrapKey): flags of the one, attributes of the other.
func (s *session) may(k key, m []*pkcs11.Mechanism, directFlag, directAttribute, objectFlag, objectAttribute uint) (direct bool, err error) {
	info, err := s.calls.GetMechanismInfo(s.slot.number, m)
	if err != nil {
		return false, failed("C_GetMechanismInfo", err)
	}
	for _, way := range []struct {
		direct          bool
		flag, attribute uint
	}{{true, directFlag, directAttribute}, {false, objectFlag, objectAttribute}} {
		if info.Flags&way.flag == 0 || way.flag == 0 {
			continue
		}
		allowed, err := s.attribute(k.handle, way.attribute)
		if err != nil {
			return false, err
		}
		if yes(allowed) {
			return way.direct, nil
		}
	}
	return false, token.Errorf(token.CodeUnsupported, "the token's mechanism or the key's attributes do not allow it")
}

// encrypt encrypts 32 bytes, by C_Encrypt or as a key object by C_WrapKey.
func (s *session) encrypt(k key, m []*pkcs11.Mechanism, plain []byte) ([]byte, error) {
	direct, err := s.may(k, m, pkcs11.CKF_ENCRYPT, pkcs11.CKA_ENCRYPT, pkcs11.CKF_WRAP, pkcs11.CKA_WRAP)
	if err != nil {
		return nil, err
	}
	if !direct {
		object, err := s.calls.CreateObject(s.handle, append(transient(), attr(pkcs11.CKA_VALUE, plain)))
		if err != nil {
			return nil, failed("C_CreateObject", err)
		}
		defer s.discard(object)
		wrapped, err := s.calls.WrapKey(s.handle, m, k.handle, object)
		return wrapped, failed("C_WrapKey", err)
	}
	if err := s.calls.EncryptInit(s.handle, m, k.handle); err != nil {
		return nil, failed("C_EncryptInit", err)
	}
	if err := s.consent(k.handle); err != nil {
		return nil, err
	}
	box, err := s.calls.Encrypt(s.handle, plain)
	return box, failed("C_Encrypt", err)
}

// decrypt decrypts to 32 bytes, by C_Decrypt or into a key object by C_UnwrapKey.
func (s *session) decrypt(k key, m []*pkcs11.Mechanism, box []byte) (*locked.Buffer, error) {
	direct, err := s.may(k, m, pkcs11.CKF_DECRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKF_UNWRAP, pkcs11.CKA_UNWRAP)
	if err != nil {
		return nil, err
	}
	if !direct {
		object, err := s.calls.UnwrapKey(s.handle, m, k.handle, box, transient())
		if err != nil {
			return nil, failed("C_UnwrapKey", err)
		}
		return s.reveal(object)
	}
	if err := s.calls.DecryptInit(s.handle, m, k.handle); err != nil {
		return nil, failed("C_DecryptInit", err)
	}
	if err := s.consent(k.handle); err != nil {
		return nil, err
	}
	plain, err := s.calls.Decrypt(s.handle, box)
	if err != nil {
		return nil, failed("C_Decrypt", err)
	}
	secret := locked.Copy(plain)
	if secret.Len() != secretSize {
		secret.Wipe()
		return nil, errDamaged()
	}
	return secret, nil
}

// transient is the template of a key object that lives for a moment, to carry a
// data key in or out.
func transient() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		attr(pkcs11.CKA_TOKEN, false),
		attr(pkcs11.CKA_SENSITIVE, false),
		attr(pkcs11.CKA_EXTRACTABLE, true),
	}
}

// reveal reads the 32 bytes out of a transient object and destroys it. Leading
// zeros, which some modules strip from numbers, are put back.
func (s *session) reveal(object pkcs11.ObjectHandle) (*locked.Buffer, error) {
	defer s.discard(object)
	value, err := s.attribute(object, pkcs11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	defer clear(value)
	if len(value) == 0 || len(value) > secretSize {
		return nil, token.Errorf(token.CodeUnsupported, "the token does not return the unwrapped secret: got %d bytes, not %d", len(value), secretSize)
	}
	secret := locked.New(secretSize)
	secret.Use(func(secret []byte) { copy(secret[secretSize-len(value):], value) })
	return secret, nil
}

// discard destroys a transient object; if it cannot, the session is to end, and
// the object with it.
func (s *session) discard(object pkcs11.ObjectHandle) {
	if s.calls.DestroyObject(s.handle, object) != nil {
		s.spoilt = true
	}
}

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
	shared.Do(func(shared []byte) {
		var box cipher.AEAD
		if box, err = boxer(shared, point, ours); err == nil {
			secret.Use(func(secret []byte) {
				_, err = box.Open(secret[:0], make([]byte, box.NonceSize()), wrapped[pointSize:], []byte(purpose))
			})
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

// oaep is RSA-OAEP with one hash in both places, and no label, which SoftHSM
// does not take.
type oaep struct {
	hash      crypto.Hash
	mechanism uint // CKM_… of the hash
	mask      uint // CKG_… of MGF1 with the hash
}

var (
	oaepSHA256 = oaep{crypto.SHA256, pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256}
	oaepSHA1   = oaep{crypto.SHA1, pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1}
)

// wrap returns as many bytes as the modulus has. The token is only asked for
// its public key.
func (o oaep) wrap(s *session, k key, plain []byte) (wrapped []byte, err error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	locked.Do(func() {
		wrapped, err = rsa.EncryptOAEP(o.hash.New(), rand.Reader, public.(*rsa.PublicKey), plain, nil)
	})
	return wrapped, err
}

func (o oaep) unwrap(s *session, k key, wrapped []byte) (*locked.Buffer, error) {
	public, err := s.public(k)
	if err != nil {
		return nil, err
	}
	if len(wrapped) != public.(*rsa.PublicKey).Size() {
		return nil, errDamaged()
	}
	parameters := pkcs11.NewOAEPParams(o.mechanism, o.mask, pkcs11.CKZ_DATA_SPECIFIED, nil)
	return s.decrypt(k, mechanism(pkcs11.CKM_RSA_PKCS_OAEP, parameters), wrapped)
}
