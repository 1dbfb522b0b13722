//go:build cgo

package token_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"filippo.io/edwards25519"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// secrets is a sealed file, and what must not be found in memory.
type secrets struct {
	file    []byte
	needles map[string][]byte
}

// newSecrets makes an identity key and has the helper of tok wrap its data key.
func newSecrets(t *testing.T, tok *token.Token, o token.Object) secrets {
	t.Helper()
	key := newIdentity(t)
	expanded := key.Expanded()
	s := secrets{needles: map[string][]byte{
		"module path": []byte("/libsofthsm2.so"),
		"scalar":      expanded[:32],
		"prefix":      expanded[32:],
	}}
	info, err := tok.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	with, err := tok.WrappingKey(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	file, err := sealed.Seal(key, info.Selector, with, time.Unix(1750000000, 0), func(m token.Method, plain *locked.Buffer) ([]byte, error) {
		s.needles["data key"] = lockedtest.Bytes(plain)
		return tok.Wrap(t.Context(), o, m, plain)
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.file, err = file.Encode(); err != nil {
		t.Fatal(err)
	}
	s.addSealKey(t, key.Address(), file.Method())
	s.addBlinded(t, key.Address(), expanded)
	return s
}

// addSealKey adds the key that the data key becomes, and how HMAC keeps what is
// in between.
func (s secrets) addSealKey(t *testing.T, address descriptor.Address, method token.Method) {
	t.Helper()
	var text struct {
		Salt []byte `json:"salt"`
	}
	if err := json.Unmarshal(s.file, &text); err != nil || len(text.Salt) != 32 {
		t.Fatalf("salt %x: %v", text.Salt, err)
	}
	extracted, err := hkdf.Extract(sha256.New, s.needles["data key"], text.Salt)
	if err != nil {
		t.Fatal(err)
	}
	info := "balancer sealed identity key\x00\x01" + string(address[:]) + string(method)
	sealKey, err := hkdf.Expand(sha256.New, extracted, info, 32)
	if err != nil {
		t.Fatal(err)
	}
	s.needles["seal key"] = sealKey
	s.needles["extracted key"] = extracted
	s.needles["extracted key, inner pad"] = xor(extracted, 0x36)
	s.needles["extracted key, outer pad"] = xor(extracted, 0x5c)
}

func xor(b []byte, with byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ with
	}
	return out
}

// addBlinded adds the blinded key (rend-spec-v3, appendix A.2), and the scalars as
// package edwards25519 keeps them: reduced, and in Montgomery's form.
func (s secrets) addBlinded(t *testing.T, address descriptor.Address, expanded []byte) {
	t.Helper()
	h := sha3.New256()
	h.Write([]byte("Derive temporary signing key\x00"))
	h.Write(address[:])
	h.Write([]byte("(15112221349535400772501151409588531511454012693041857206046113283949847762202, 46316835694926478169428394003475163141307993866256225615783033603165251855960)key-blind"))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, period.Number), period.Minutes()))
	factor := clamped(t, h.Sum(nil))
	scalar := clamped(t, expanded[:32])
	blinded := edwards25519.NewScalar().Multiply(factor, scalar)
	want, err := address.Blind(period)
	if err != nil || !bytes.Equal(new(edwards25519.Point).ScalarBaseMult(blinded).Bytes(), want[:]) {
		t.Fatalf("the blinded key is computed wrongly: %v", err)
	}
	prefix := sha512.Sum512(append([]byte("Derive temporary signing key hash input"), expanded[32:]...))
	s.needles["scalar, reduced"] = scalar.Bytes()
	s.needles["scalar, Montgomery"] = montgomery(t, scalar)
	s.needles["blinded scalar"] = blinded.Bytes()
	s.needles["blinded scalar, Montgomery"] = montgomery(t, blinded)
	s.needles["blinded prefix"] = prefix[:32]
}

func clamped(t *testing.T, b []byte) *edwards25519.Scalar {
	t.Helper()
	s, err := edwards25519.NewScalar().SetBytesWithClamping(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// montgomery returns s times 2^256.
func montgomery(t *testing.T, s *edwards25519.Scalar) []byte {
	t.Helper()
	wide := make([]byte, 64)
	wide[32] = 1
	power, err := edwards25519.NewScalar().SetUniformBytes(wide)
	if err != nil {
		t.Fatal(err)
	}
	return edwards25519.NewScalar().Multiply(s, power).Bytes()
}
