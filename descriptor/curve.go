package descriptor

import (
	"encoding/hex"
	"errors"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

var (
	errZeroKey  = errors.New("a key of zeros")
	errLowOrder = errors.New("a key of low order, with which nothing is secret")
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
