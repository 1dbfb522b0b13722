package descriptor

import (
	"bytes"
	"crypto/sha3"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"filippo.io/edwards25519"
)

const (
	addressVersion  = 3
	addressLength   = 56 // characters, without ".onion"
	addressSuffix   = ".onion"
	addressConstant = ".onion checksum"
	shortLength     = 6 // characters of an address that logs show
)

// base32Lower is the alphabet of onion addresses and of client keys:
// RFC 4648 base32, written in lower case, without padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ErrAddress is wrapped by every error about a malformed onion address.
var ErrAddress = errors.New("not a version 3 onion address")

// Address is the Ed25519 identity public key of an onion service, which is
// what a version 3 onion address spells out (rend-spec-v3, section 6).
// Addresses are comparable; the zero value is no valid address.
type Address [32]byte

// ParseAddress reads an onion address of 56 base32 characters, in either case,
// with or without ".onion". It checks the checksum and the version, and that
// the key is the canonical encoding of a point of prime order other than the
// identity, so that every Address it returns can be blinded.
func ParseAddress(s string) (Address, error) {
	text := strings.TrimSuffix(strings.ToLower(s), addressSuffix)
	if len(text) != addressLength {
		return Address{}, fmt.Errorf("reading address %q: %w: %d characters before %q, want %d",
			s, ErrAddress, len(text), addressSuffix, addressLength)
	}
	raw, err := base32Lower.DecodeString(text)
	if err != nil {
		return Address{}, fmt.Errorf("reading address %q: %w: %w", s, ErrAddress, err)
	}
	// The decoder passes over line ends, so it may return less.
	if len(raw) != base32Lower.DecodedLen(addressLength) {
		return Address{}, fmt.Errorf("reading address %q: %w: a line end within it", s, ErrAddress)
	}
	a := Address(raw[:32])
	if raw[34] != addressVersion {
		return Address{}, fmt.Errorf("reading address %q: %w: version %d, want 3; is its last character mistyped?", s, ErrAddress, raw[34])
	}
	if sum := a.checksum(); !bytes.Equal(sum[:], raw[32:34]) {
		return Address{}, fmt.Errorf("reading address %q: %w: wrong checksum, is it mistyped?", s, ErrAddress)
	}
	if err := a.Validate(); err != nil {
		return Address{}, fmt.Errorf("reading address %q: %w: %w", s, ErrAddress, err)
	}
	return a, nil
}

// Validate reports whether the key behind a can belong to an onion service:
// a canonically encoded curve point of prime order. Points with a torsion
// component would give one service several addresses.
func (a Address) Validate() error {
	_, err := primeOrderPoint(a[:])
	return err
}

// String returns the whole address, ".onion" included. Logs use Short.
func (a Address) String() string { return a.Label() + addressSuffix }

// Label returns the 56 characters before ".onion", which is how the control
// protocol names a service.
func (a Address) Label() string {
	var raw [35]byte
	copy(raw[:], a[:])
	sum := a.checksum()
	copy(raw[32:], sum[:])
	raw[34] = addressVersion
	return base32Lower.EncodeToString(raw[:])
}

// Short returns the first characters of the address, enough to tell an
// operator's services apart and too few to find one by.
func (a Address) Short() string { return a.Label()[:shortLength] + "…" }

// MarshalText writes the whole address.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what ParseAddress reads.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := ParseAddress(string(text))
	if err == nil {
		*a = parsed
	}
	return err
}

func (a Address) checksum() [2]byte {
	h := sha3.New256()
	h.Write([]byte(addressConstant))
	h.Write(a[:])
	h.Write([]byte{addressVersion})
	return [2]byte(h.Sum(nil))
}

var errPoint = errors.New("not the canonical encoding of a point of prime order")

// primeOrderPoint decodes a public key strictly: canonical, on the curve, not
// the identity, and without a torsion component.
func primeOrderPoint(key []byte) (*edwards25519.Point, error) {
	p, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPoint, err)
	}
	if !bytes.Equal(p.Bytes(), key) {
		return nil, fmt.Errorf("%w: other encodings exist", errPoint)
	}
	identity := edwards25519.NewIdentityPoint()
	if p.Equal(identity) == 1 {
		return nil, fmt.Errorf("%w: the identity", errPoint)
	}
	// [l]P, computed as [l-1]P + P since l itself is no scalar.
	lP := new(edwards25519.Point).ScalarMult(minusOne, p)
	if lP.Add(lP, p).Equal(identity) != 1 {
		return nil, fmt.Errorf("%w: torsion", errPoint)
	}
	return p, nil
}

var minusOne = func() *edwards25519.Scalar {
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		panic("descriptor: one is a scalar: " + err.Error())
	}
	return one.Negate(one)
}()
