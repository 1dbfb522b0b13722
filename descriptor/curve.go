package descriptor

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

var (
	errZeroKey  = errors.New("a key of zeros")
	errLowOrder = errors.New("a key of low order, with which all secrets are public")
)

// lowOrderU are the x-coordinates of the points of low order on curve25519 and
// on its twist, every encoding below 2^255 of each.
var lowOrderU = func() (us [7][32]byte) {
	for i, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("descriptor: " + err.Error())
		}
		us[i] = [32]byte(b)
	}
	return us
}()

// checkX25519 refuses the public keys that give every partner one of a few
// shared secrets. The all-zero key among them has crashed clients.
func checkX25519(key [32]byte) error {
	if key == ([32]byte{}) {
		return errZeroKey
	}
	key[31] &= 0x7f // as X25519 does
	for _, u := range lowOrderU {
		if key == u {
			return errLowOrder
		}
	}
	return nil
}

// checkEd25519 refuses public keys that are no curve point, are encoded in
// another than the canonical way, or have low order. A torsion component
// beside a large order passes: finding it costs more than it would tell.
func checkEd25519(key [32]byte) error {
	if key == ([32]byte{}) {
		return errZeroKey
	}
	if !canonicalField(key) {
		return errPoint
	}
	p, err := new(edwards25519.Point).SetBytes(key[:])
	if err != nil {
		return errPoint
	}
	if p.MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return errLowOrder
	}
	return nil
}

// canonicalField reports whether key, its top bit aside, is below 2^255-19.
func canonicalField(key [32]byte) bool {
	if key[0] < 0xed || key[31]&0x7f != 0x7f {
		return true
	}
	for _, b := range key[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// edwardsFromX25519 maps an x25519 public key to the Ed25519 public key with
// sign bit 0 on the birationally equivalent curve: y = (u-1)/(u+1)
// (proposal 228, appendix A). key must have passed checkX25519.
func edwardsFromX25519(key [32]byte) [32]byte {
	u, one := fieldElement(key), new(field.Element).One()
	y := new(field.Element).Add(&u, one)
	y.Multiply(y.Invert(y), u.Subtract(&u, one))
	return [32]byte(y.Bytes())
}

// isEdwardsOf reports whether ed is what edwardsFromX25519 makes of key, with
// either sign bit, at the price of a multiplication: y*(u+1) = u-1.
func isEdwardsOf(ed, key [32]byte) bool {
	if !canonicalField(ed) {
		return false
	}
	u, y, one := fieldElement(key), fieldElement(ed), new(field.Element).One()
	left := new(field.Element).Add(&u, one)
	left.Multiply(left, &y)
	return left.Equal(u.Subtract(&u, one)) == 1
}

// fieldElement reads 255 bits; the top bit is ignored.
func fieldElement(b [32]byte) (e field.Element) {
	if _, err := e.SetBytes(b[:]); err != nil {
		panic("descriptor: 32 bytes are a field element: " + err.Error())
	}
	return e
}

// signingSecret is an Ed25519 secret key as signatures are made with it: the
// scalar, and the prefix that keys their nonces.
type signingSecret struct {
	scalar edwards25519.Scalar
	prefix [32]byte
}

// newSigningSecret expands a key (RFC 8032, section 5.1.5).
func newSigningSecret(key ed25519.PrivateKey) (sealed[signingSecret], error) {
	var s signingSecret
	digest := sha512.Sum512(key.Seed())
	defer clear(digest[:])
	if _, err := s.scalar.SetBytesWithClamping(digest[:32]); err != nil {
		return nil, err
	}
	copy(s.prefix[:], digest[32:])
	return seal(&s), nil
}

// sign makes an Ed25519 signature of 64 bytes. Its nonce is hashed from the
// secret prefix and the given parts: the message itself, for the signature that
// RFC 8032, section 5.1.6, describes, or what no two messages have in common.
func (s *signingSecret) sign(public [32]byte, message []byte, nonce ...[]byte) []byte {
	h := sha512.New()
	h.Write(s.prefix[:])
	for _, part := range nonce {
		h.Write(part)
	}
	var digest [sha512.Size]byte
	r := uniformScalar(h.Sum(digest[:0]))
	signature := make([]byte, 0, ed25519.SignatureSize)
	signature = append(signature, new(edwards25519.Point).ScalarBaseMult(r).Bytes()...)
	h.Reset()
	h.Write(signature)
	h.Write(public[:])
	h.Write(message)
	k := uniformScalar(h.Sum(digest[:0]))
	return append(signature, k.MultiplyAdd(k, &s.scalar, r).Bytes()...)
}

func uniformScalar(digest []byte) *edwards25519.Scalar {
	s, err := edwards25519.NewScalar().SetUniformBytes(digest)
	if err != nil {
		panic("descriptor: a SHA-512 digest has 64 bytes: " + err.Error())
	}
	return s
}

// signFunc signs a message. Parts of a nonce are for signingSecret.sign, with
// none standing for the message; other signers choose their nonces themselves.
type signFunc func(message []byte, nonce ...[]byte) ([]byte, error)

// signWith returns a function that signs with e's key, and checks what a signer
// outside this process says: a token that returns garbage would otherwise take
// the service down.
func (e *Encoder) signWith(random io.Reader) signFunc {
	if e.secret != nil {
		return func(message []byte, nonce ...[]byte) ([]byte, error) {
			if len(nonce) == 0 {
				nonce = [][]byte{message}
			}
			return e.secret().sign(e.public, message, nonce...), nil
		}
	}
	return func(message []byte, _ ...[]byte) ([]byte, error) {
		signature, err := e.signer.Sign(random, message, crypto.Hash(0))
		if err != nil {
			return nil, err
		}
		if len(signature) != ed25519.SignatureSize || !ed25519.Verify(e.public[:], message, signature) {
			return nil, errors.New("the signer returned a wrong signature")
		}
		return signature, nil
	}
}

// nonceLabel begins the nonces of whole descriptors. No certificate begins like
// it, and no other message that the key signs.
const nonceLabel = "nonce of a descriptor's signature"

// nonceOf returns the parts of the nonce for the signature of a wrapper that
// consists of head and the first layer, encrypted. RFC 8032 hashes the message
// for the nonce, and again for the challenge. A descriptor is long, and its MAC
// is a hash of nearly all of it that we already have:
//
//   - The nonce stays a secret, for the prefix that the hash begins with is one.
//   - It does not repeat, for there are fresh random bytes in it; and should the
//     random source fail, two nonces are the same only if the heads, the salts
//     and the MACs are. The MAC is a SHA3-256 hash of a key, the salt and the
//     ciphertext, so that other descriptors have others.
//   - All parts but the last have a fixed length: different parts are different
//     inputs to the hash.
//
// Anyone who verifies cannot tell the difference.
func nonceOf(head, first []byte, random io.Reader) ([][]byte, error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(random, fresh); err != nil {
		return nil, err
	}
	return [][]byte{[]byte(nonceLabel), fresh, first[:saltSize], first[len(first)-macSize:], head}, nil
}
