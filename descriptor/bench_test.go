package descriptor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha3"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"onionbalancer/bench/cputime"
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

// counterPrimitives is what the revision counter of a shared-random run 36
// hours old takes: AES over two bytes for each second.
func counterPrimitives(b *testing.B, buf []byte) {
	block, err := aes.NewCipher(buf[:32])
	if err != nil {
		b.Fatal(err)
	}
	stream := cipher.NewCTR(block, buf[:aes.BlockSize])
	for n := int(benchRun / time.Second * 2); n > 0; n -= len(buf) {
		stream.XORKeyStream(buf[:min(n, len(buf))], buf[:min(n, len(buf))])
	}
}

// BenchmarkEncodePrimitives is what the first Encode cannot avoid: 42
// signatures, SHAKE, AES and SHA3.
func BenchmarkEncodePrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	cpu := cputime.Start()
	for b.Loop() {
		counterPrimitives(b, buf[:8192])
		for range 41 {
			ed25519.Sign(s.signing, buf[:benchCert])
		}
		sealPrimitives(b, buf)
		ed25519.Sign(s.signing, buf)
	}
	cpu.Report(b)
}

// decodedPoints are points as they come from an instance's descriptor.
func decodedPoints(b *testing.B) []IntroductionPoint {
	b.Helper()
	s := newTestService(b, 5)
	raw, err := s.encoder(b).Encode(torContents(testPoints(b, 20, seeded(1))), 1, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	d, err := new(Decoder).Decode(raw, s.keys, nil, testNow)
	if err != nil {
		b.Fatal(err)
	}
	return d.IntroductionPoints
}

// BenchmarkEncode makes everything again: the descriptor-signing key, the
// blinded key and its certificate, the revision counter, the certificates of
// all introduction points, and the descriptor.
func BenchmarkEncode(b *testing.B) {
	identity, err := IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	contents := torContents(decodedPoints(b))
	keys, err := identity.Address().Keys(newTestService(b, 1).keys.Period)
	if err != nil {
		b.Fatal(err)
	}
	cpu := cputime.Start()
	for b.Loop() {
		if err := makeWhole(identity, keys, contents); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}

// benchRun is how old the shared-random run is for which a descriptor is made.
const benchRun = 36 * time.Hour

func makeWhole(identity *IdentityKey, keys PeriodKeys, contents *Contents) error {
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	blinded, err := identity.Blind(keys.Period)
	if err != nil {
		return err
	}
	cert, err := NewCertificate(CertHSDescSigning, [32]byte(public), keys.Blinded, SigningCertExpiry(testNow),
		func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		return err
	}
	revision, err := blinded.RevisionKey().RevisionCounter(testNow.Add(-benchRun), testNow)
	if err != nil {
		return err
	}
	e, err := NewEncoder(keys, cert, signing)
	if err != nil {
		return err
	}
	_, err = e.Encode(contents, revision, rand.Reader)
	return err
}

// BenchmarkEncodeKeptPrimitives is what every further Encode cannot avoid.
func BenchmarkEncodeKeptPrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	cpu := cputime.Start()
	for b.Loop() {
		sealPrimitives(b, buf)
		ed25519.Sign(s.signing, buf)
	}
	cpu.Report(b)
}

// BenchmarkEncodeKept makes one more upload of unchanged introduction points,
// a second after the last one.
func BenchmarkEncodeKept(b *testing.B) {
	s, contents := newTestService(b, 1), torContents(testPoints(b, 20, seeded(1)))
	e := s.encoder(b)
	counters := newRevisionKey(make([]byte, 32)).Sequence(testNow.Add(-benchRun))
	now := testNow
	cpu := cputime.Start()
	for b.Loop() {
		now = now.Add(time.Second)
		if now.After(testNow.Add(time.Hour)) {
			now = testNow
		}
		revision, err := counters.At(now)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Encode(contents, revision, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}

// BenchmarkEdition makes the eight descriptors of one revision: with points that
// were never encoded, with those of the revision before, and with those of the
// revision before under a new expiry, as every hour brings one.
func BenchmarkEdition(b *testing.B) {
	for _, n := range []int{6, 20} {
		for _, kind := range []string{"cold", "warm", "redated"} {
			b.Run(fmt.Sprintf("points=%d/%s", n, kind), func(b *testing.B) {
				s, c := newTestService(b, 1), torContents(testPoints(b, n, seeded(1)))
				e := s.encoder(b)
				cpu := cputime.Start()
				for revision := uint64(1); b.Loop(); revision++ {
					switch kind {
					case "cold":
						e.Release()
					case "redated":
						for i := range c.IntroductionPoints {
							c.IntroductionPoints[i].Expires = testNow.Add(time.Duration(revision%1000) * time.Hour)
						}
					}
					for range 8 {
						if _, err := e.Encode(c, revision, rand.Reader); err != nil {
							b.Fatal(err)
						}
					}
				}
				cpu.Report(b)
			})
		}
	}
}

// BenchmarkEncoderMemory measures what an Encoder holds after a day of editions
// of 20 points with a new expiry each hour, and what is left after Release.
func BenchmarkEncoderMemory(b *testing.B) {
	for _, released := range []bool{false, true} {
		b.Run(fmt.Sprintf("released=%v", released), func(b *testing.B) {
			s, c := newTestService(b, 1), torContents(testPoints(b, 20, seeded(1)))
			for b.Loop() {
				encoders := make([]*Encoder, 20)
				before := heap()
				for i := range encoders {
					e := s.encoder(b)
					for hour := range 24 {
						for n := range c.IntroductionPoints {
							c.IntroductionPoints[n].Expires = testNow.Add(time.Duration(hour) * time.Hour)
						}
						if _, err := e.Encode(c, uint64(hour), rand.Reader); err != nil {
							b.Fatal(err)
						}
					}
					if released {
						e.Release()
					}
					encoders[i] = e
				}
				b.ReportMetric(float64(heap()-before)/float64(len(encoders)), "B/encoder")
				runtime.KeepAlive(encoders)
			}
		})
	}
}

// heap returns how many bytes of the heap are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // of what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkDecodePrimitives is what the first Decode cannot avoid: 42
// verifications, SHAKE, SHA3 and AES.
func BenchmarkDecodePrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	public := s.signing.Public().(ed25519.PublicKey)
	small, large := ed25519.Sign(s.signing, buf[:benchCert]), ed25519.Sign(s.signing, buf)
	zero := slices.Clone(buf)
	cpu := cputime.Start()
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
	cpu.Report(b)
}

// BenchmarkDecodeKnownPrimitives is what Decode cannot avoid when it knows the
// certificates.
func BenchmarkDecodeKnownPrimitives(b *testing.B) {
	s, buf := newTestService(b, 1), make([]byte, benchWhole)
	public, zero := s.signing.Public().(ed25519.PublicKey), make([]byte, benchWhole)
	signature := ed25519.Sign(s.signing, zero)
	cpu := cputime.Start()
	for b.Loop() {
		if !ed25519.Verify(public, zero, signature) {
			b.Fatal("wrong signature")
		}
		sealPrimitives(b, buf)
	}
	cpu.Report(b)
}

// BenchmarkReadPrimitives is what reading without verifying cannot avoid.
func BenchmarkReadPrimitives(b *testing.B) {
	buf := make([]byte, benchWhole)
	cpu := cputime.Start()
	for b.Loop() {
		sealPrimitives(b, buf)
	}
	cpu.Report(b)
}

func benchDescriptors(b *testing.B, n int) (raws [][]byte, keys PeriodKeys) {
	b.Helper()
	s, contents := newTestService(b, 1), torContents(testPoints(b, 20, seeded(1)))
	e := s.encoder(b)
	for range n {
		raw, err := e.Encode(contents, 1<<30, rand.Reader)
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
	cpu := cputime.Start()
	for b.Loop() {
		if _, err := new(Decoder).Decode(raws[0], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}

// BenchmarkDecodeKnownPoints decodes other uploads of the same introduction
// points: the outer signature is verified, the certificates are known.
func BenchmarkDecodeKnownPoints(b *testing.B) {
	raws, keys := benchDescriptors(b, memoSize+1)
	var d Decoder
	cpu := cputime.Start()
	for i := 0; b.Loop(); i++ {
		if _, err := d.Decode(raws[i%len(raws)], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}

// BenchmarkDecodeSame decodes bytes that were decoded before.
func BenchmarkDecodeSame(b *testing.B) {
	raws, keys := benchDescriptors(b, 1)
	var d Decoder
	cpu := cputime.Start()
	for b.Loop() {
		if _, err := d.Decode(raws[0], keys, nil, testNow); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}

// BenchmarkRead parses and decrypts without verifying a signature, for
// comparison with programs that verify none.
func BenchmarkRead(b *testing.B) {
	raws, keys := benchDescriptors(b, 1)
	cpu := cputime.Start()
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
	cpu.Report(b)
}

// BenchmarkRevisionCounter is of a shared-random run 36 hours old.
func BenchmarkRevisionCounter(b *testing.B) {
	k := newRevisionKey(make([]byte, 32))
	start := testNow.Add(-benchRun)
	cpu := cputime.Start()
	for b.Loop() {
		if _, err := k.RevisionCounter(start, testNow); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
}
