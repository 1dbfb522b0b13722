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

// TestCheckRoom: what it refuses, and only that, has no room for one point.
func TestCheckRoom(t *testing.T) {
	long := CAA{0, "issue", strings.Repeat("c", 1200)}
	var clients []AuthorizedClient
	for n := range 500 {
		clients = append(clients, AuthorizedClient{[32]byte{byte(n), byte(n >> 8), 1}})
	}
	for _, test := range []struct {
		caa     []CAA
		clients int
		want    string
	}{
		{nil, 0, ""},
		{slices.Repeat([]CAA{{0, "issue", "ca.example"}}, 32), 300, ""},
		{slices.Repeat([]CAA{{0, "issue", "ca.example"}}, 33), 0, "caa: more than 32"},
		{nil, 500, "clients: 500 of them"},
		{slices.Repeat([]CAA{long}, 32), 0, "caa: the records leave"},
	} {
		c := &Contents{CAA: test.caa, Clients: clients[:test.clients]}
		if err := c.CheckRoom(0); test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%d records, %d clients: %v, want %q", len(test.caa), test.clients, err, test.want)
		}
	}
	most := 0
	for (&Contents{Clients: clients[:most+1]}).CheckRoom(0) == nil {
		most++
	}
	c := Contents{IntroductionPoints: testPoints(t, 1, seeded(1)), SingleOnion: true, FlowControl: &FlowControl{Versions: "1-2", SendmeInc: 255}}
	point := &c.IntroductionPoints[0]
	point.LinkSpecifiers = append(point.LinkSpecifiers, LinkSpecifier{LinkIPv6, make([]byte, 18)})
	s := newTestService(t, 1)
	c.Clients = clients[:most+authMultiple+1]
	if _, err := s.encoder(t).Encode(&c, 1<<40, seeded(1)); err == nil {
		t.Errorf("%d clients have room", len(c.Clients))
	}
	c.Clients = append(clients[:most:most], clients[:most]...) // each twice
	if err := c.CheckRoom(0); err != nil {
		t.Error(err)
	}
	if _, err := s.encoder(t).Encode(&c, 1<<40, seeded(1)); err != nil {
		t.Errorf("%d clients: %v", most, err)
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
	e := &Encoder{keys: s.keys, public: weak, certs: Hourly(cert)}
	raw, err := e.encodeSigned(torContents(nil), 1, seeded(1), anybody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Decoder).Decode(raw, s.keys, nil, testNow); !errors.Is(err, errLowOrder) {
		t.Errorf("decoding a descriptor that anybody signed gives %v", err)
	}
}
