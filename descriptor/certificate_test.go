package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"filippo.io/edwards25519"
)

func TestCertificateVectors(t *testing.T) {
	file := loadJSON[struct {
		Certificates []struct {
			Name   string     `json:"name"`
			Raw    hexBytes   `json:"certificate"`
			Expect string     `json:"expect"`
			Fields certVector `json:"fields"`
			EncKey hexBytes   `json:"x25519_enc_key"`
			Signer hexBytes   `json:"descriptor_signing_key"`
		} `json:"certificates"`
	}](t, "certs.json")
	enough(t, "certificates", len(file.Certificates), 46)
	for _, v := range file.Certificates {
		t.Run(v.Name, func(t *testing.T) {
			c, err := ParseCertificate(v.Raw)
			if strings.HasPrefix(v.Expect, "reject") {
				if err == nil {
					t.Fatalf("accepted, want: %s", v.Expect)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.Bytes(), v.Raw) {
				t.Error("other bytes")
			}
			checkCertificate(t, c, v.Fields)
			if v.EncKey != nil && !isEdwardsOf(c.Key(), v.EncKey.key()) {
				t.Error("not the Ed25519 form of the enc-key")
			}
			if v.EncKey != nil && edwardsFromX25519(v.EncKey.key()) != c.Key() {
				t.Error("another Ed25519 form of the enc-key")
			}
			if v.Signer != nil {
				if err := c.Verify(v.Signer.key(), c.Expires()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func checkCertificate(t *testing.T, c Certificate, want certVector) {
	t.Helper()
	if byte(c.Type()) != want.Type || c.Expires().Unix() != want.Hours*3600 || c.KeyType() != want.KeyType || c.Key() != want.Key.key() {
		t.Errorf("type %02X, expires %v, key type %d, key %x", byte(c.Type()), c.Expires(), c.KeyType(), c.Key())
	}
	signer, named := c.SigningKey()
	if named != (want.SigningKey != nil) || named && signer != want.SigningKey.key() {
		t.Errorf("signing key %x", signer)
	}
	if !bytes.Equal(c.Signature(), want.Signature) {
		t.Errorf("signature %x", c.Signature())
	}
	exts := c.Extensions()
	if len(exts) != len(want.Extensions) {
		t.Fatalf("%d extensions, want %d", len(exts), len(want.Extensions))
	}
	for i, w := range want.Extensions {
		if exts[i].Type != w.Type || exts[i].Flags != w.Flags || !bytes.Equal(exts[i].Data, w.Data) {
			t.Errorf("extension %d: %v", i, exts[i])
		}
	}
	if want.Valid == nil {
		return
	}
	// A key of another type is refused even under a right signature.
	valid := *want.Valid && want.KeyType == certKeyEd25519
	if err := c.Verify(signer, c.Expires()); (err == nil) != valid {
		t.Errorf("verifying: %v", err)
	}
	if valid && c.Verify(signer, c.Expires().Add(time.Second)) == nil {
		t.Error("valid after its expiry")
	}
}

func TestSigningCertExpiry(t *testing.T) {
	whole := time.Date(2026, 11, 20, 6, 0, 0, 0, time.UTC)
	for _, c := range []struct{ now, want time.Time }{
		{whole, whole.Add(54 * time.Hour)},
		{whole.Add(time.Second), whole.Add(55 * time.Hour)},
		{whole.Add(59 * time.Minute), whole.Add(55 * time.Hour)},
	} {
		if got := SigningCertExpiry(c.now); !got.Equal(c.want) {
			t.Errorf("made at %v: expires at %v, want %v", c.now, got, c.want)
		}
	}
}

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
