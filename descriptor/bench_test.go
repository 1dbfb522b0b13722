package descriptor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha3"
	"slices"
	"testing"
	"time"
)

// Sizes in bytes of what is encrypted and signed in a descriptor of 20
// introduction points.
const (
	benchSecond = 14990
	benchFirst  = 30000
	benchWhole  = 41187
	benchCert   = certSignedLength
)

// sealPrimitives does the symmetric work of both layers.
func sealPrimitives(b *testing.B, buf []byte) {
	for _, n := range []int{benchSecond, benchFirst} {
		h := sha3.NewSHAKE256()
		_, _ = h.Write(buf[:32+32+8+16+24])
		var derived [80]byte
		_, _ = h.Read(derived[:])
		block, err := aes.NewCipher(derived[:32])
		if err != nil {
			b.Fatal(err)
		}
		cipher.NewCTR(block, derived[32:48]).XORKeyStream(buf[:n], buf[:n])
		mac := sha3.New256()
		mac.Write(buf[:n+64])
		mac.Sum(derived[:0])
	}
}

// BenchmarkEncodePrimitives is what the first Encode cannot avoid: 42
// signatures, SHAKE, AES and SHA3.
func BenchmarkEncodePrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	for b.Loop() {
		for range 41 {
			ed25519.Sign(s.signing, buf[:benchCert])
		}
		sealPrimitives(b, buf)
		ed25519.Sign(s.signing, buf)
	}
}

// decodedPoints are points as they come from an instance's descriptor.
func decodedPoints(b *testing.B) []IntroductionPoint {
	b.Helper()
	s := newTestService(b, 5)
	raw, err := s.encoder(b).Encode(torContents(testPoints(b, 20, seeded(1))), 1, nil, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	d, err := new(Decoder).Decode(raw, s.keys, nil, testNow)
	if err != nil {
		b.Fatal(err)
	}
	return d.IntroductionPoints
}

// BenchmarkEncode makes everything anew: the certificate of the signing key,
// that of every introduction point, and the descriptor.
func BenchmarkEncode(b *testing.B) {
	identity, err := IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	s, contents := newTestService(b, 1), torContents(decodedPoints(b))
	period := s.keys.Period
	if s.keys, err = identity.Address().Keys(period); err != nil {
		b.Fatal(err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		b.Fatal(err)
	}
	public := [32]byte(s.signing.Public().(ed25519.PublicKey))
	for b.Loop() {
		cert, err := NewCertificate(CertHSDescSigning, public, s.keys.Blinded, SigningCertExpiry(testNow),
			func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
		if err != nil {
			b.Fatal(err)
		}
		e, err := NewEncoder(s.keys, cert, s.signing)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Encode(contents, 1<<30, nil, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodeKeptPrimitives is what every further Encode cannot avoid.
func BenchmarkEncodeKeptPrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	for b.Loop() {
		sealPrimitives(b, buf)
		ed25519.Sign(s.signing, buf)
	}
}

// BenchmarkEncodeKept makes one more upload of unchanged introduction points.
func BenchmarkEncodeKept(b *testing.B) {
	s, contents := newTestService(b, 1), torContents(testPoints(b, 20, seeded(1)))
	e := s.encoder(b)
	for b.Loop() {
		if _, err := e.Encode(contents, 1<<30, nil, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodePrimitives is what the first Decode cannot avoid: 42
// verifications, SHAKE, SHA3 and AES.
func BenchmarkDecodePrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	public := s.signing.Public().(ed25519.PublicKey)
	small, large := ed25519.Sign(s.signing, buf[:benchCert]), ed25519.Sign(s.signing, buf)
	zero := slices.Clone(buf)
	for b.Loop() {
		for range 41 {
			if !ed25519.Verify(public, zero[:benchCert], small) {
				b.Fatal("wrong signature")
			}
		}
		if !ed25519.Verify(public, zero, large) {
			b.Fatal("wrong signature")
		}
		sealPrimitives(b, buf)
	}
}

func benchDescriptors(b *testing.B, n int) (raws [][]byte, keys Keys) {
	b.Helper()
	s, contents := newTestService(b, 1), torContents(testPoints(b, 20, seeded(1)))
	e := s.encoder(b)
	for range n {
		raw, err := e.Encode(contents, 1<<30, nil, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		raws = append(raws, raw)
	}
	return raws, s.keys
}

// BenchmarkDecode verifies all, knowing nothing.
func BenchmarkDecode(b *testing.B) {
	raws, keys := benchDescriptors(b, 1)
	for b.Loop() {
		if _, err := new(Decoder).Decode(raws[0], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeKnownPoints decodes other uploads of the same introduction
// points: the outer signature is verified, the certificates are known.
func BenchmarkDecodeKnownPoints(b *testing.B) {
	raws, keys := benchDescriptors(b, memoSize+1)
	var d Decoder
	for i := 0; b.Loop(); i++ {
		if _, err := d.Decode(raws[i%len(raws)], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeSame decodes bytes that were decoded before.
func BenchmarkDecodeSame(b *testing.B) {
	raws, keys := benchDescriptors(b, 1)
	var d Decoder
	for b.Loop() {
		if _, err := d.Decode(raws[0], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead parses and decrypts without verifying a signature, for
// comparison with programs that verify none.
func BenchmarkRead(b *testing.B) {
	raws, keys := benchDescriptors(b, 1)
	for b.Loop() {
		o, err := parseOuter(raws[0])
		if err != nil {
			b.Fatal(err)
		}
		f, err := o.openFirst(&keys)
		if err != nil {
			b.Fatal(err)
		}
		if l, _, err := f.openSecond(&keys, o.revision, nil); err != nil || len(l.points) != 20 {
			b.Fatal(err)
		}
	}
}

// BenchmarkRevisionCounter is of a shared-random run 36 hours old.
func BenchmarkRevisionCounter(b *testing.B) {
	k := RevisionKey{key: [32]byte{1}}
	start := testNow.Add(-36 * time.Hour)
	for b.Loop() {
		if _, err := k.RevisionCounter(start, testNow); err != nil {
			b.Fatal(err)
		}
	}
}
