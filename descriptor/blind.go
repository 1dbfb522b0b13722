package descriptor

import (
	"crypto/sha3"
	"encoding/binary"
	"fmt"

	"filippo.io/edwards25519"
)

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

// Blind derives the public key that stands for a in period p
// (rend-spec-v3, appendix A.2). It fails if a is no valid address.
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
