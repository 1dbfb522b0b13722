package descriptor

import (
	"bytes"
	"crypto"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

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
