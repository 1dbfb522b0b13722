package descriptor

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	// Sizes of tor's own descriptors with as many introduction points. One without any, of
	// a service that was withdrawn, is as large as one with few.
	for points, size := range map[int]int{0: 14107, 3: 14107, 10: 27647, 20: 41187} {
		contents := torContents(testPoints(t, points, seeded(2)))
		raw, err := s.encoder(t).Encode(contents, 123456, seeded(3))
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
		raw, err := s.encoder(t).Encode(&d.Contents, d.RevisionCounter, seeded(1))
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
		raw, err := e.Encode(&d.Contents, d.RevisionCounter, seeded(1))
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
		contents.Clients = clients
		raw, err := e.Encode(contents, 7, rand.Reader)
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
		before, err := new(Decoder).Decode(raw, s.keys, keys[0], testNow)
		if err != nil {
			t.Fatal(err)
		}
		contents.Clients = clients[1:]
		if raw, err = e.Encode(contents, 8, rand.Reader); err != nil {
			t.Fatal(err)
		}
		if after, err := parseOuter(raw); err != nil {
			t.Error(err)
		} else if first, err := after.openFirst(&s.keys); err != nil || first.ephemeral == before.AuthEphemeralKey {
			t.Errorf("without the first of %d clients, the ephemeral key is the same: %v", n, err)
		}
		_, err = new(Decoder).Decode(raw, s.keys, keys[0], testNow)
		if locked := errors.Is(err, ErrClientKey); locked != (n > 1) {
			t.Errorf("the client taken off a list of %d: %v", n, err)
		}
	}
}

// TestEncodeFresh checks that uploads share no salt and keep the rest.
func TestEncodeFresh(t *testing.T) {
	s := newTestService(t, 1)
	e, contents := s.encoder(t), torContents(testPoints(t, 3, seeded(1)))
	var layers [2]*firstLayer
	var raws [2][]byte
	for i := range raws {
		var err error
		if raws[i], err = e.Encode(contents, 5, rand.Reader); err != nil {
			t.Fatal(err)
		}
		o, err := parseOuter(raws[i])
		if err != nil {
			t.Fatal(err)
		}
		if layers[i], err = o.openFirst(&s.keys); err != nil {
			t.Fatal(err)
		}
	}
	a, b := layers[0], layers[1]
	if bytes.Equal(a.blob[:saltSize], b.blob[:saltSize]) || bytes.Equal(raws[0], raws[1]) {
		t.Error("the same salt twice")
	}
	if a.ephemeral != b.ephemeral || !slices.Equal(a.clients, b.clients) {
		t.Error("the entries of clients changed from upload to upload, which tor's do not")
	}
}

// countingSigner counts signatures, as a slow token would be paid by them.
type countingSigner struct {
	ed25519.PrivateKey
	mu    sync.Mutex
	count int
	spoil bool
	fail  error
}

func (c *countingSigner) Sign(r io.Reader, m []byte, o crypto.SignerOpts) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	sig, err := c.PrivateKey.Sign(r, m, o)
	if c.spoil {
		sig[3] ^= 1
	}
	return sig, errors.Join(err, c.fail)
}

func TestEncodeSignsOnce(t *testing.T) {
	s := newTestService(t, 1)
	signer := &countingSigner{PrivateKey: s.signing}
	e, err := NewEncoder(s.keys, s.cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	points := testPoints(t, 21, seeded(1))
	revision := uint64(5)
	encode := func(points []IntroductionPoint, want int) {
		t.Helper()
		before := signer.count
		if _, err := e.Encode(torContents(points), revision, rand.Reader); err != nil {
			t.Fatal(err)
		}
		if got := signer.count - before; got != want {
			t.Errorf("%d signatures, want %d", got, want)
		}
	}
	encode(points[:20], 41)
	encode(points[:20], 1)
	encode(points[1:21], 3)
	renewed := slices.Clone(points[:20])
	renewed[4].Expires = renewed[4].Expires.Add(time.Hour)
	before := signer.count
	if err := e.Check(torContents(points[:20]), 6, rand.Reader); err != nil || signer.count != before {
		t.Errorf("checking: %v, %d signatures", err, signer.count-before)
	}
	encode(renewed, 3)
	encode(points[:20], 1) // the certificates of before are kept

	revision++
	encode(points[:20], 1) // and for one revision more
	revision++
	encode(points[1:20], 1)
	revision++
	encode(renewed, 5) // what the last revision did not have is gone
	e.Release()
	encode(points[:20], 41)

	signer.spoil = true
	if _, err := e.Encode(torContents(nil), 5, rand.Reader); err == nil {
		t.Error("a wrong signature was published")
	}
	signer.spoil, signer.fail = false, errors.New("token gone")
	if _, err := e.Encode(torContents(nil), 5, rand.Reader); !errors.Is(err, signer.fail) {
		t.Errorf("error %v, want the signer's", err)
	}
}

func TestEncodeConcurrently(t *testing.T) {
	s := newTestService(t, 1)
	e, points := s.encoder(t), testPoints(t, 4, seeded(1))
	var d Decoder
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			raw, err := e.Encode(torContents(points[i%4:]), uint64(i), rand.Reader)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := d.Decode(raw, s.keys, nil, testNow); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestEncodeRefuses(t *testing.T) {
	s := newTestService(t, 1)
	base := func() *Contents { return torContents(testPoints(t, 2, seeded(1))) }
	lowOrder := [32]byte{1}
	for name, spoil := range map[string]func(*Contents){
		"21 points":            func(c *Contents) { c.IntroductionPoints = testPoints(t, 21, seeded(1)) },
		"zero auth-key":        func(c *Contents) { c.IntroductionPoints[1].AuthKey = [32]byte{} },
		"auth-key of no point": func(c *Contents) { c.IntroductionPoints[1].AuthKey = [32]byte{2} },
		"low-order auth-key":   func(c *Contents) { c.IntroductionPoints[1].AuthKey = lowOrder },
		"zero enc-key":         func(c *Contents) { c.IntroductionPoints[0].EncKey = [32]byte{} },
		"low-order enc-key":    func(c *Contents) { c.IntroductionPoints[0].EncKey = lowOrder },
		"zero onion-key":       func(c *Contents) { c.IntroductionPoints[0].OnionKey = [32]byte{} },
		"legacy point":         func(c *Contents) { c.IntroductionPoints[0].Legacy = true },
		"no expiry":            func(c *Contents) { c.IntroductionPoints[0].Expires = time.Time{} },
		"expiry past 32 bits":  func(c *Contents) { c.IntroductionPoints[0].Expires = time.Unix(math.MaxInt64/2, 0) },
		"no specifiers":        func(c *Contents) { c.IntroductionPoints[0].LinkSpecifiers = nil },
		"no address":           func(c *Contents) { c.IntroductionPoints[0].LinkSpecifiers = c.IntroductionPoints[0].LinkSpecifiers[1:] },
		"short fingerprint":    func(c *Contents) { c.IntroductionPoints[0].LinkSpecifiers[1].Data = make([]byte, 19) },
		"long specifier": func(c *Contents) {
			c.IntroductionPoints[0].LinkSpecifiers = append(c.IntroductionPoints[0].LinkSpecifiers, LinkSpecifier{9, make([]byte, 256)})
		},
		"256 specifiers": func(c *Contents) {
			c.IntroductionPoints[0].LinkSpecifiers = append(c.IntroductionPoints[0].LinkSpecifiers, make([]LinkSpecifier, 253)...)
		},
		"no ntor":             func(c *Contents) { c.Create2Formats = []int{3} },
		"handshake type":      func(c *Contents) { c.Create2Formats = []int{2, 65536} },
		"introduction auth":   func(c *Contents) { c.IntroAuthRequired = []string{"password"} },
		"two words in one":    func(c *Contents) { c.IntroAuthRequired = []string{"ed25519", "a b"} },
		"33 words":            func(c *Contents) { c.IntroAuthRequired = slices.Repeat([]string{"ed25519"}, 33) },
		"33 proofs of work":   func(c *Contents) { c.PowParams = slices.Repeat([]PowParams{{Scheme: "v2"}}, 33) },
		"proof of 33 words":   func(c *Contents) { c.PowParams = []PowParams{{Scheme: "v2", Other: strings.Repeat("a ", 32) + "a"}} },
		"SENDME of 0":         func(c *Contents) { c.FlowControl.SendmeInc = 0 },
		"flow control, empty": func(c *Contents) { c.FlowControl.Versions = "" },
		"flow control, words": func(c *Contents) { c.FlowControl.Versions = "1\npow-params" },
		"proof of work twice": func(c *Contents) { c.PowParams = []PowParams{{Scheme: powScheme}, {Scheme: powScheme}} },
		"proof of work, time": func(c *Contents) { c.PowParams = []PowParams{{Scheme: powScheme}} },
		"client of key zero":  func(c *Contents) { c.Clients = []AuthorizedClient{{}} },
		"33 CAA records":      func(c *Contents) { c.CAA = slices.Repeat([]CAA{{0, "issue", ""}}, 33) },
		"CAA, no tag":         func(c *Contents) { c.CAA = []CAA{{0, "", "ca.example"}} },
		"CAA, tag":            func(c *Contents) { c.CAA = []CAA{{0, "is sue", "ca.example"}} },
		"CAA, long tag":       func(c *Contents) { c.CAA = []CAA{{0, strings.Repeat("a", 256), "ca.example"}} },
		"CAA, line":           func(c *Contents) { c.CAA = []CAA{{0, "issue", "a\nintroduction-point "}} },
		"CAA, not ASCII":      func(c *Contents) { c.CAA = []CAA{{0, "issue", "caf\u00e9.example"}} },
		"proof of work, line": func(c *Contents) { c.PowParams = []PowParams{{Scheme: "v2", Other: "a\nb"}} },
	} {
		t.Run(name, func(t *testing.T) {
			c := base()
			spoil(c)
			if _, err := s.encoder(t).Encode(c, 1, seeded(1)); err == nil {
				t.Error("encoded")
			}
			if err := s.encoder(t).Check(c, 1, seeded(1)); err == nil {
				t.Error("found good")
			}
		})
	}
	if _, err := s.encoder(t).Encode(base(), 1, bytes.NewReader(make([]byte, 40))); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("randomness ran out: %v", err)
	}
}

func TestEncodeSize(t *testing.T) {
	s := newTestService(t, 1)
	e := s.encoder(t)
	// Specifiers of unknown types make points of any size.
	points := testPoints(t, 20, seeded(1))
	for i := range points {
		points[i].LinkSpecifiers = append(points[i].LinkSpecifiers, LinkSpecifier{99, make([]byte, 255)})
	}
	if _, err := e.Encode(torContents(points), 1, seeded(1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	raw, err := e.Encode(torContents(points[:2]), 1, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	e = s.encoder(t)
	e.MaxSize = len(raw)
	if _, err := e.Encode(torContents(points[:2]), 1, seeded(1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("of the limit's size: error %v, want ErrTooLarge", err)
	}
	if _, err := (&Decoder{MaxSize: len(raw)}).Decode(raw, s.keys, nil, testNow); !errors.Is(err, ErrTooLarge) {
		t.Errorf("decoding what is of the limit's size: error %v, want ErrTooLarge", err)
	}
	if _, err := (&Decoder{MaxSize: len(raw) + 1}).Decode(raw, s.keys, nil, testNow); err != nil {
		t.Error(err)
	}
}

func TestNewEncoderRefuses(t *testing.T) {
	s, other := newTestService(t, 1), newTestService(t, 7)
	spoiled := s.cert.Bytes()
	spoiled[len(spoiled)-1] ^= 1
	forged, err := ParseCertificate(spoiled)
	if err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]func() (*Encoder, error){
		"another service":   func() (*Encoder, error) { return NewEncoder(other.keys, s.cert, s.signing) },
		"another signer":    func() (*Encoder, error) { return NewEncoder(s.keys, s.cert, other.signing) },
		"wrong signature":   func() (*Encoder, error) { return NewEncoder(s.keys, forged, s.signing) },
		"no certificate":    func() (*Encoder, error) { return NewEncoder(s.keys, Certificate{}, s.signing) },
		"no Ed25519 at all": func() (*Encoder, error) { return NewEncoder(s.keys, s.cert, oddSigner{}) },
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

type oddSigner struct{}

func (oddSigner) Public() crypto.PublicKey { return nil }
func (oddSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}

// The memory of a descriptor that is not used any more serves the next.
func TestReuse(t *testing.T) {
	s := newTestService(t, 1)
	e, c := s.encoder(t), &Contents{}
	encode := func() []byte {
		raw, err := e.Encode(c, 7, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	encode()
	kept := encode()
	copied := bytes.Clone(kept)
	reused := false
	for range 1000 { // the pool may be emptied at any time
		raw := encode()
		first := &raw[0]
		Reuse(raw)
		reused = reused || first == &encode()[0]
	}
	if !reused || !bytes.Equal(kept, copied) {
		t.Errorf("reused: %t, and what was not given back is as it was: %t", reused, bytes.Equal(kept, copied))
	}
}
