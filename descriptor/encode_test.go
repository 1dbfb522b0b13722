package descriptor

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// testNow is a whole hour, so that certificates expire as asked.
var testNow = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// testService is a service during one period, with its descriptor-signing key.
type testService struct {
	keys    PeriodKeys
	cert    Certificate
	signing ed25519.PrivateKey
}

func newTestService(t testing.TB, seed byte) testService {
	t.Helper()
	identity, err := IdentityKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	period := PeriodAt(testNow, DefaultPeriodLength, DefaultRotationOffset)
	s := testService{signing: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed + 1}, 32))}
	if s.keys, err = identity.Address().Keys(period); err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	s.cert, err = NewCertificate(CertHSDescSigning, [32]byte(s.signing.Public().(ed25519.PublicKey)), s.keys.Blinded,
		SigningCertExpiry(testNow), func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s testService) encoder(t testing.TB) *Encoder {
	t.Helper()
	e, err := NewEncoder(s.keys, s.cert, s.signing)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// testPoints makes n introduction points of the shape that tor's have.
func testPoints(t testing.TB, n int, random io.Reader) []IntroductionPoint {
	t.Helper()
	points := make([]IntroductionPoint, n)
	for i := range points {
		p := &points[i]
		ipv4, rsa, ed := make([]byte, 6), make([]byte, 20), make([]byte, 32)
		for _, b := range [][]byte{ipv4, rsa, ed} {
			if _, err := io.ReadFull(random, b); err != nil {
				t.Fatal(err)
			}
		}
		p.LinkSpecifiers = []LinkSpecifier{{LinkIPv4, ipv4}, {LinkRSA, rsa}, {LinkEd25519, ed}}
		p.OnionKey, p.EncKey = testX25519(t, random), testX25519(t, random)
		seed := make([]byte, ed25519.SeedSize)
		if _, err := io.ReadFull(random, seed); err != nil {
			t.Fatal(err)
		}
		p.AuthKey = [32]byte(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
		p.Expires = testNow.Add(time.Duration(i+1) * time.Hour)
	}
	return points
}

func testX25519(t testing.TB, random io.Reader) [32]byte {
	t.Helper()
	k, err := newX25519(random)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(k.PublicKey().Bytes())
}

// seeded is a source of randomness that repeats.
func seeded(n byte) io.Reader { return mathrand.NewChaCha8([32]byte{n}) }

func torContents(points []IntroductionPoint) *Contents {
	return &Contents{FlowControl: &FlowControl{Versions: "1-2", SendmeInc: 31}, IntroductionPoints: points}
}

func TestEncodeShape(t *testing.T) {
	s := newTestService(t, 1)
	// Sizes of tor's own descriptors with as many introduction points.
	for points, size := range map[int]int{3: 14107, 10: 27647, 20: 41187} {
		contents := torContents(testPoints(t, points, seeded(2)))
		raw, err := s.encoder(t).Encode(contents, 123456, nil, seeded(3))
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) != size {
			t.Errorf("%d points: %d bytes, want tor's %d", points, len(raw), size)
		}
		if lines := strings.SplitN(string(raw), "\n", 4); lines[0] != "hs-descriptor 3" || lines[1] != "descriptor-lifetime 180" || lines[2] != "descriptor-signing-key-cert" {
			t.Errorf("begins with %q", lines[:3])
		}
		d, err := new(Decoder).Decode(raw, s.keys, nil, testNow)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.AuthClients) != 16 || d.Lifetime != 180*time.Minute || d.RevisionCounter != 123456 || len(d.IntroductionPoints) != points {
			t.Errorf("%d clients, lifetime %v, revision %d, %d points", len(d.AuthClients), d.Lifetime, d.RevisionCounter, len(d.IntroductionPoints))
		}
		for i := range contents.IntroductionPoints {
			if !d.IntroductionPoints[i].Equal(&contents.IntroductionPoints[i]) {
				t.Errorf("point %d differs", i)
			}
		}
	}
}

// TestEncodeLikeTor encodes again what tor made, and compares the plaintexts:
// the lines that our decoder and encoder do not share are compared byte for
// byte, the rest by decoding.
func TestEncodeLikeTor(t *testing.T) {
	s := newTestService(t, 1)
	for _, v := range loadCorpus(t).Descriptors {
		d, err := new(Decoder).Decode(v.raw(t), v.keys(t), v.clientKeys(t)[0], v.now())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.encoder(t).Encode(&d.Contents, d.RevisionCounter, nil, seeded(1))
		if err != nil {
			t.Fatalf("%s: %v", v.File, err)
		}
		if want := len(v.raw(t)); len(raw) != want && len(v.Clients) <= 16 {
			t.Errorf("%s: %d bytes, tor's has %d", v.File, len(raw), want)
		}
		second := openForTest(t, raw, s.keys)
		if got, want := linesOutsideCerts(second), linesOutsideCerts(plain(t, v.Expected.SecondFile)); !slices.Equal(got, want) {
			t.Errorf("%s: second layer\n%q\nwant\n%q", v.File, got, want)
		}
	}
}

// openForTest decrypts the second layer of a public descriptor.
func openForTest(t testing.TB, raw []byte, keys PeriodKeys) []byte {
	t.Helper()
	o, err := parseOuter(raw)
	if err != nil {
		t.Fatal(err)
	}
	f, err := o.openFirst(&keys)
	if err != nil {
		t.Fatal(err)
	}
	text, err := layerSecret{keys: &keys, revision: o.revision, constant: secondConstant}.open(f.blob)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// linesOutsideCerts leaves out the lines that depend on the signing key.
func linesOutsideCerts(text []byte) (lines []string) {
	inside := false
	for line := range strings.SplitSeq(string(text), "\n") {
		if line == "-----END ED25519 CERT-----" {
			inside = false
		}
		if !inside {
			lines = append(lines, line)
		}
		inside = inside || line == "-----BEGIN ED25519 CERT-----"
	}
	return lines
}

// expandedSigner signs with a key of which only the expanded form is known.
type expandedSigner struct{ *BlindedKey }

func newExpandedSigner(t testing.TB, expanded []byte) expandedSigner {
	t.Helper()
	return expandedSigner{blindedFromExpanded(t, expanded)}
}

func (s expandedSigner) Public() crypto.PublicKey { return ed25519.PublicKey(s.public[:]) }

func (s expandedSigner) Sign(_ io.Reader, m []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.BlindedKey.Sign(m), nil
}

// TestEncodeSameBytes makes a second layer again with the signing key that it
// was made with: every byte is the same, signatures included.
func TestEncodeSameBytes(t *testing.T) {
	tried := 0
	for _, v := range loadCorpus(t).Bad {
		if !slices.Contains([]string{"bad/ok-20-intro-points.txt", "bad/ok-0-intro-points.txt", "bad/ok-pow-v1.txt", "bad/ok-single-onion.txt",
			"bad/ok-unknown-link-specifier.txt", "bad/ip-repeated.txt", "bad/flow-control-32.txt"}, v.File) {
			continue
		}
		tried++
		keys := v.keys(t)
		d, err := new(Decoder).Decode(v.raw(t), keys, nil, v.now())
		if err != nil {
			t.Fatal(err)
		}
		e, err := NewEncoder(keys, d.SigningCert, newExpandedSigner(t, v.SigningSecret))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := e.Encode(&d.Contents, d.RevisionCounter, nil, seeded(1))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(openForTest(t, raw, keys), openForTest(t, v.raw(t), keys)) {
			t.Errorf("%s: other bytes", v.File)
		}
		// All up to the revision counter is the same too.
		if n := bytes.Index(raw, []byte(kwSuperencrypted)); !bytes.Equal(raw[:n], v.raw(t)[:n]) {
			t.Errorf("%s: begins with\n%s", v.File, raw[:n])
		}
	}
	enough(t, "descriptors to make again", tried, 7)
}

func TestEncodeForClients(t *testing.T) {
	s := newTestService(t, 1)
	for _, n := range []int{1, 3, 16, 17} {
		var clients []AuthorizedClient
		var keys []*ClientKey
		for range n {
			secret, err := newX25519(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, newClientKey(secret))
			clients = append(clients, keys[len(keys)-1].Client())
		}
		e := s.encoder(t)
		contents := torContents(testPoints(t, 2, rand.Reader))
		raw, err := e.Encode(contents, 7, clients, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range keys {
			d, err := new(Decoder).Decode(raw, s.keys, k, testNow)
			if err != nil {
				t.Fatalf("client %d of %d: %v", i, n, err)
			}
			if want := (n + 15) / 16 * 16; len(d.AuthClients) != want || !d.NeedsClientKey {
				t.Errorf("%d entries for %d clients, want %d", len(d.AuthClients), n, want)
			}
		}
		if _, err := new(Decoder).Decode(raw, s.keys, nil, testNow); !errors.Is(err, ErrClientKey) {
			t.Errorf("without a key: %v", err)
		}
		// A client that is taken off the list is locked out.
		raw, err = e.Encode(contents, 8, clients[1:], rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, err = new(Decoder).Decode(raw, s.keys, keys[0], testNow)
		if locked := errors.Is(err, ErrClientKey); locked != (n > 1) {
			t.Errorf("the client taken off a list of %d: %v", n, err)
		}
	}
}
