package descriptor

import (
	"crypto/rand"
	"crypto/sha512"

	"filippo.io/edwards25519"
)

// signed is a message with its Ed25519 signature, 64 bytes.
type signed struct{ message, signature []byte }

// allSigned reports whether public made all signatures, at a quarter of the price of
// ed25519.Verify for each of many. A signature is right if s*B = R + k*A (RFC 8032,
// section 5.1.7). Here one random combination of all the equations is checked: it holds
// for wrong signatures with a probability of 2^-128. To one kind it is blind, those
// that are wrong by a point of low order, which only who has the secret key can make, and
// which HSDirs refuse. So it is for keys that work for us. It may be false, for odd
// encodings, where ed25519.Verify is true.
func allSigned(public [32]byte, list []signed) bool {
	a, err := new(edwards25519.Point).SetBytes(public[:])
	if err != nil {
		return false
	}
	random := make([]byte, 16*len(list))
	_, _ = rand.Read(random) // never fails
	sumS, sumK := edwards25519.NewScalar(), edwards25519.NewScalar()
	var scalars []*edwards25519.Scalar
	var points []*edwards25519.Point
	for i, one := range list {
		r, errR := new(edwards25519.Point).SetBytes(one.signature[:32])
		s, errS := edwards25519.NewScalar().SetCanonicalBytes(one.signature[32:])
		if errR != nil || errS != nil {
			return false
		}
		h := sha512.New()
		h.Write(one.signature[:32])
		h.Write(public[:])
		h.Write(one.message)
		k := uniformScalar(h.Sum(nil))
		var weight [sha512.Size]byte
		copy(weight[:], random[16*i:16*i+16])
		z := uniformScalar(weight[:])
		sumS.MultiplyAdd(z, s, sumS)
		sumK.MultiplyAdd(z, k, sumK)
		scalars, points = append(scalars, z), append(points, r)
	}
	scalars = append(scalars, sumK, sumS.Negate(sumS))
	points = append(points, a, edwards25519.NewGeneratorPoint())
	return new(edwards25519.Point).VarTimeMultiScalarMult(scalars, points).Equal(edwards25519.NewIdentityPoint()) == 1
}
