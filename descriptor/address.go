package descriptor

import (
	"bytes"
	"crypto/sha3"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

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

// Address is the Ed25519 identity public key of an onion service, which
// a version 3 onion address encodes (rend-spec-v3, section 6).
// Addresses are comparable; the zero value is not a valid address.
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

// UnmarshalText reads the input of ParseAddress.
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

// DefaultPeriodLength is the length of a time period on the public network,
// where the consensus parameter hsdir_interval is absent.
const DefaultPeriodLength = 1440 * time.Minute

// DefaultRotationOffset is where a time period begins on the public network:
// twelve voting intervals of an hour after midnight.
const DefaultRotationOffset = 12 * time.Hour

// Period is a time period: the span for which one blinded key of a service is
// used (rend-spec-v3, section 2.2.1, TIME-PERIODS). Periods are comparable.
type Period struct {
	// Number counts periods of this length since the epoch, the offset left out.
	Number uint64
	// Length is a whole number of minutes.
	Length time.Duration
}

// PeriodAt returns the period that t falls into, when periods are length long
// and begin offset after a multiple of length since the epoch. Both are cut
// down to whole minutes, as tor does. A t before the first period gives number 0;
// a length under a minute is an error of the caller and gives the public
// network's length.
func PeriodAt(t time.Time, length, offset time.Duration) Period {
	length = length.Truncate(time.Minute)
	if length < time.Minute {
		length = DefaultPeriodLength
	}
	minutes := t.Unix()/60 - int64(offset/time.Minute)
	if minutes < 0 {
		return Period{Length: length}
	}
	return Period{Number: uint64(minutes / int64(length/time.Minute)), Length: length}
}

// Start returns the moment at which p begins under the given rotation offset.
func (p Period) Start(offset time.Duration) time.Time {
	minutes := int64(p.Number)*int64(p.Minutes()) + int64(offset/time.Minute)
	return time.Unix(minutes*60, 0).UTC()
}

// End returns the moment at which the period after p begins.
func (p Period) End(offset time.Duration) time.Time { return p.Next().Start(offset) }

// FirstUse returns when a descriptor of p is published first: with the shared
// random value before p begins (rend-spec-v3, section 2.2.2), which comes half a
// period before if periods are as long as the runs that make one.
func (p Period) FirstUse(offset time.Duration) time.Time {
	if p.Length == 2*offset {
		return p.Start(offset).Add(-offset)
	}
	return p.Start(offset).Add(-p.Length)
}

// LastUse returns until when a descriptor of p is published: until the shared random
// value after p ends or, if periods are not as long as the runs that make one, for a run
// or a period longer than p.
func (p Period) LastUse(offset time.Duration) time.Time {
	if p.Length == 2*offset {
		return p.End(offset).Add(offset)
	}
	return p.End(offset).Add(min(p.Length, 2*offset))
}

// Next returns the period after p.
func (p Period) Next() Period { return Period{p.Number + 1, p.Length} }

// Previous returns the period before p; period 0 is its own predecessor.
func (p Period) Previous() Period {
	if p.Number == 0 {
		return p
	}
	return Period{p.Number - 1, p.Length}
}

// Minutes returns the length of p in minutes, the unit that enters the hashes.
func (p Period) Minutes() uint64 { return uint64(p.Length / time.Minute) }

// String writes p as number and length, "20456/1440m".
func (p Period) String() string { return fmt.Sprintf("%d/%dm", p.Number, p.Minutes()) }

// The byte strings of rend-spec-v3, appendix A.2 (KEYBLIND). The trailing NUL
// and the printed base point are part of the hash.
const (
	blindConstant     = "Derive temporary signing key\x00"
	blindBasePoint    = "(15112221349535400772501151409588531511454012693041857206046113283949847762202, 46316835694926478169428394003475163141307993866256225615783033603165251855960)"
	blindNonce        = "key-blind"
	blindHashConstant = "Derive temporary signing key hash input"
)

// BlindedPublicKey is the public key that stands for a service during one
// period. HSDirs know a service by it alone.
type BlindedPublicKey [32]byte

// Subcredential proves knowledge of an onion address for one period; the
// layers of a descriptor are encrypted with it (rend-spec-v3, section 2.1).
type Subcredential [32]byte

// Blind derives the public key of a in period p
// (rend-spec-v3, appendix A.2). It fails if a is not a valid address.
func (a Address) Blind(p Period) (BlindedPublicKey, error) {
	point, err := primeOrderPoint(a[:])
	if err != nil {
		return BlindedPublicKey{}, fmt.Errorf("blinding address: %w", err)
	}
	h, err := blindingFactor(a, p)
	if err != nil {
		return BlindedPublicKey{}, fmt.Errorf("blinding address: %w", err)
	}
	return BlindedPublicKey(point.ScalarMult(h, point).Bytes()), nil
}

// Subcredential returns the subcredential of a for the period in which blinded
// stands for it.
func (a Address) Subcredential(blinded BlindedPublicKey) Subcredential {
	h := sha3.New256()
	h.Write([]byte("credential"))
	h.Write(a[:])
	credential := h.Sum(nil)
	h.Reset()
	h.Write([]byte("subcredential"))
	h.Write(credential)
	h.Write(blinded[:])
	return Subcredential(h.Sum(nil))
}

// blindingFactor is the clamped hash h that multiplies both halves of a key.
func blindingFactor(a Address, p Period) (*edwards25519.Scalar, error) {
	h := sha3.New256()
	h.Write([]byte(blindConstant))
	h.Write(a[:])
	// The optional secret between the key and the base point is always empty.
	h.Write([]byte(blindBasePoint))
	h.Write([]byte(blindNonce))
	h.Write(int8Bytes(p.Number))
	h.Write(int8Bytes(p.Minutes()))
	return edwards25519.NewScalar().SetBytesWithClamping(h.Sum(nil))
}

// int8Bytes is INT_8 of the specification: eight bytes, big-endian.
func int8Bytes(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// PeriodKeys is all that an onion address and a period determine, all of it public:
// the keys to find, verify and decrypt the descriptors of a service during that
// period. Computed once and passed around; comparable.
type PeriodKeys struct {
	Address       Address
	Period        Period
	Blinded       BlindedPublicKey
	Subcredential Subcredential
}

// Keys derives the public keys of a for period p. It fails if a is not a valid
// address.
func (a Address) Keys(p Period) (PeriodKeys, error) {
	blinded, err := a.Blind(p)
	if err != nil {
		return PeriodKeys{}, fmt.Errorf("deriving the keys of period %s: %w", p, err)
	}
	return PeriodKeys{Address: a, Period: p, Blinded: blinded, Subcredential: a.Subcredential(blinded)}, nil
}
