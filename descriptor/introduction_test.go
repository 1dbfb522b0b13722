package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestLinkSpecifiers: what two readers could understand differently is not read.
func TestLinkSpecifiers(t *testing.T) {
	p := testPoints(t, 1, seeded(1))[0]
	ipv4, rsa, ed := p.LinkSpecifiers[0], p.LinkSpecifiers[1], p.LinkSpecifiers[2]
	ipv6 := LinkSpecifier{LinkIPv6, make([]byte, 18)}
	other := LinkSpecifier{LinkRSA, bytes.Repeat([]byte{7}, 20)}
	unknown := LinkSpecifier{200, make([]byte, 255)}
	for name, c := range map[string]struct {
		specs []LinkSpecifier
		good  bool
	}{
		"tor's":                  {[]LinkSpecifier{ipv4, rsa, ed}, true},
		"with IPv6":              {[]LinkSpecifier{ipv4, rsa, ed, ipv6}, true},
		"another order":          {[]LinkSpecifier{ed, ipv6, rsa, ipv4}, true},
		"unknown ones":           {[]LinkSpecifier{ipv4, unknown, rsa, unknown, ed}, true},
		"no IPv4":                {[]LinkSpecifier{rsa, ed, ipv6}, false},
		"no RSA identity":        {[]LinkSpecifier{ipv4, ed}, false},
		"no Ed25519 identity":    {[]LinkSpecifier{ipv4, rsa}, false},
		"two RSA identities":     {[]LinkSpecifier{ipv4, rsa, other, ed}, false},
		"the same one twice":     {[]LinkSpecifier{ipv4, rsa, rsa, ed}, false},
		"two IPv4 addresses":     {[]LinkSpecifier{ipv4, ipv4, rsa, ed}, false},
		"two Ed25519 identities": {[]LinkSpecifier{ipv4, rsa, ed, ed}, false},
		"two IPv6 addresses":     {[]LinkSpecifier{ipv4, rsa, ed, ipv6, ipv6}, false},
		"port 0":                 {[]LinkSpecifier{{LinkIPv4, []byte{1, 2, 3, 4, 0, 0}}, rsa, ed}, false},
	} {
		if _, err := parseLinkSpecifiers(appendLinkSpecifiers(nil, c.specs)); (err == nil) != c.good {
			t.Errorf("%s: reading gives %v", name, err)
		}
		q := p
		q.LinkSpecifiers = c.specs
		if err := q.check(); (err == nil) != c.good {
			t.Errorf("%s: writing gives %v", name, err)
		}
	}
}

func TestPublishable(t *testing.T) {
	p := testPoints(t, 1, seeded(1))[0]
	ipv4, rsa, ed := p.LinkSpecifiers[0], p.LinkSpecifiers[1], p.LinkSpecifiers[2]
	ipv6, unknown := LinkSpecifier{LinkIPv6, make([]byte, 18)}, LinkSpecifier{200, make([]byte, 255)}
	p.LinkSpecifiers = []LinkSpecifier{unknown, ed, ipv6, unknown, rsa, ipv4}
	q := p.Publishable()
	want := IntroductionPoint{LinkSpecifiers: []LinkSpecifier{ipv4, rsa, ed, ipv6}, OnionKey: p.OnionKey, AuthKey: p.AuthKey, EncKey: p.EncKey, Expires: p.Expires}
	if !q.Equal(&want) {
		t.Errorf("%+v, want %+v", q, want)
	}
	if len(p.LinkSpecifiers) != 6 {
		t.Error("the original was changed")
	}
}

// TestMaxPoints: as many points as it says fit, however wide they are, and a
// padding unit less of room has fewer.
func TestMaxPoints(t *testing.T) {
	s := newTestService(t, 1)
	points := testPoints(t, MaxIntroductionPoints, seeded(1))
	for i := range points {
		points[i].LinkSpecifiers = append(points[i].LinkSpecifiers, LinkSpecifier{LinkIPv6, make([]byte, 18)})
	}
	if n := new(Contents).MaxPoints(0); n != MaxIntroductionPoints {
		t.Errorf("%d points fit into tor's limit", n)
	}
	restricted := Contents{CAA: slices.Repeat([]CAA{{128, "issue", strings.Repeat("c", 100)}}, 20)}
	for range 40 {
		restricted.Clients = append(restricted.Clients, AuthorizedClient{testX25519(t, seeded(byte(len(restricted.Clients))))})
	}
	for _, c := range []Contents{{}, restricted} {
		last := MaxIntroductionPoints
		for limit := 50000; limit > 15000; limit -= 1777 {
			n := c.MaxPoints(limit)
			if n > last {
				t.Fatalf("%d points fit into %d bytes, and %d into more", n, limit, last)
			}
			last = n
			e := s.encoder(t)
			e.MaxSize = limit
			c.IntroductionPoints = points[:n]
			if _, err := e.Encode(&c, 1<<40, seeded(1)); err != nil {
				t.Fatalf("%d points into %d bytes: %v", n, limit, err)
			}
		}
		if last == MaxIntroductionPoints {
			t.Error("nothing was ever too little room")
		}
	}
}

// TestLowOrderSigningKey: with a signing key of low order anybody can sign, so
// a certificate for one must not count, no matter who made it.
func TestLowOrderSigningKey(t *testing.T) {
	s := newTestService(t, 1)
	identity, err := IdentityKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(s.keys.Period)
	if err != nil {
		t.Fatal(err)
	}
	weak := [32]byte{1} // the identity element: R = [S]B is a signature of anything
	if _, err := blinded.Certify(weak, SigningCertExpiry(testNow)); !errors.Is(err, errLowOrder) {
		t.Errorf("certifying it gives %v", err)
	}
	cert, err := NewCertificate(CertHSDescSigning, weak, blinded.Public(), SigningCertExpiry(testNow),
		func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.Verify(blinded.Public(), testNow); !errors.Is(err, errLowOrder) {
		t.Errorf("verifying its certificate gives %v", err)
	}
	anybody := func([]byte, ...[]byte) ([]byte, error) { // S = 0, R = [0]B
		return slices.Concat([]byte{1}, make([]byte, ed25519.SignatureSize-1)), nil
	}
	b := []byte(kwDescriptor + " " + versionWord + "\n" + kwLifetime + " " + lifetimeWord + "\n" + kwSigningCert + "\n")
	e := &Encoder{keys: s.keys, public: weak, cert: string(append(appendObject(b, labelCert, cert.Bytes()), '\n'))}
	raw, err := e.encodeSigned(torContents(nil), 1, seeded(1), anybody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Decoder).Decode(raw, s.keys, nil, testNow); !errors.Is(err, errLowOrder) {
		t.Errorf("decoding a descriptor that anybody signed gives %v", err)
	}
}
