package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"testing"
	"testing/iotest"

	"filippo.io/edwards25519"
)

// TestSignLikeStandardLibrary signs messages of all kinds of lengths with the
// nonce of RFC 8032.
func TestSignLikeStandardLibrary(t *testing.T) {
	random := seeded(1)
	for n := range 300 {
		public, key, err := ed25519.GenerateKey(random)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := newSigningSecret(key)
		if err != nil {
			t.Fatal(err)
		}
		message := make([]byte, n)
		_, _ = random.Read(message)
		if got := secret().sign([32]byte(public), message, message); !bytes.Equal(got, ed25519.Sign(key, message)) {
			t.Fatalf("signature %x of %d bytes", got, n)
		}
	}
}

// TestIdentitySigns: signatures by the identity key are those of RFC 8032.
func TestIdentitySigns(t *testing.T) {
	random := seeded(3)
	for n := range 100 {
		_, key, err := ed25519.GenerateKey(random)
		if err != nil {
			t.Fatal(err)
		}
		identity, err := IdentityKeyFromSeed(key.Seed())
		if err != nil {
			t.Fatal(err)
		}
		message := make([]byte, n)
		_, _ = random.Read(message)
		got, err := identity.Sign(message)
		if err != nil || !bytes.Equal(got, ed25519.Sign(key, message)) {
			t.Fatalf("signature %x of %d bytes, %v", got, n, err)
		}
		identity.Wipe()
		if got, err := identity.Sign(message); err == nil {
			t.Fatalf("a key that was wiped signs: %x", got)
		}
	}
}

// wrapper returns what the signature of a descriptor covers, and the signature.
func wrapper(t *testing.T, raw []byte) (message, signature []byte) {
	t.Helper()
	o, err := parseOuter(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(signaturePrefix), o.signed...), o.signature[:]
}

// TestDescriptorNonces makes descriptors that differ in one thing each, from a
// random source that always says the same: nonces must not repeat, or the key
// is lost. For a signature (R, S) with the challenge k, the nonce r is S-k*a.
func TestDescriptorNonces(t *testing.T) {
	s := newTestService(t, 1)
	contents := torContents(testPoints(t, 3, seeded(1)))
	shorter := torContents(testPoints(t, 2, seeded(1)))
	seen := map[string]string{}
	for _, c := range []struct {
		name     string
		contents *Contents
		revision uint64
		random   byte
	}{
		{"first", contents, 7, 0},
		{"other revision", contents, 8, 0},
		{"other contents", shorter, 7, 0},
		{"other random", contents, 7, 1},
	} {
		raw, err := s.encoder(t).Encode(c.contents, c.revision, constantReader(c.random))
		if err != nil {
			t.Fatal(err)
		}
		message, signature := wrapper(t, raw)
		if !ed25519.Verify(s.signing.Public().(ed25519.PublicKey), message, signature) {
			t.Fatalf("%s: wrong signature", c.name)
		}
		nonce := string(nonceFrom(t, s.signing, message, signature))
		if before, ok := seen[nonce]; ok {
			t.Errorf("%s and %s have the same nonce", before, c.name)
		}
		seen[nonce] = c.name
		if !bytes.Equal(new(edwards25519.Point).ScalarBaseMult(uniformScalar(append([]byte(nonce), make([]byte, 32)...))).Bytes(), signature[:32]) {
			t.Errorf("%s: the nonce is not the signature's", c.name)
		}
	}
}

// TestNonceIsFresh makes the very same descriptor of two sources that differ
// only after the salts: the nonces differ.
func TestNonceIsFresh(t *testing.T) {
	first := bytes.Repeat([]byte{1}, 100)
	a, err := nonceOf([]byte("head"), first, constantReader(0))
	if err != nil {
		t.Fatal(err)
	}
	b, err := nonceOf([]byte("head"), first, constantReader(1))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) {
		t.Error("nothing random is in the nonce")
	}
	failing := errors.New("no entropy")
	if _, err := nonceOf(nil, first, iotest.ErrReader(failing)); !errors.Is(err, failing) {
		t.Errorf("error %v, want %v", err, failing)
	}
}

// nonceFrom computes the nonce of a signature by means of the secret key.
func nonceFrom(t *testing.T, key ed25519.PrivateKey, message, signature []byte) []byte {
	t.Helper()
	secret, err := newSigningSecret(key)
	if err != nil {
		t.Fatal(err)
	}
	h := sha512.New()
	h.Write(signature[:32])
	h.Write(key.Public().(ed25519.PublicKey))
	h.Write(message)
	k := uniformScalar(h.Sum(nil))
	response, err := edwards25519.NewScalar().SetCanonicalBytes(signature[32:])
	if err != nil {
		t.Fatal(err)
	}
	return response.Subtract(response, k.Multiply(k, &secret().scalar)).Bytes()
}

// constantReader is a random source that has failed.
type constantReader byte

func (c constantReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}
