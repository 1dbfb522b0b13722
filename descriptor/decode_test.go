package descriptor

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDecodeGood(t *testing.T) {
	for _, v := range loadCorpus(t).Descriptors {
		t.Run(v.File, func(t *testing.T) {
			raw, keys := v.raw(t), v.keys(t)
			if keys.Blinded != v.Expected.Blinded.key() || keys.Subcredential != v.Expected.Subcredential.key() {
				t.Fatal("wrong keys")
			}
			for _, client := range v.clientKeys(t) {
				var d Decoder
				got, err := d.Decode(raw, keys, client, v.now())
				if err != nil {
					t.Fatal(err)
				}
				checkDescriptor(t, got, v)
			}
		})
	}
}

func checkDescriptor(t *testing.T, got *Descriptor, v goodVector) {
	t.Helper()
	want := v.Expected
	if got.Lifetime != time.Duration(want.Lifetime)*time.Minute || got.RevisionCounter != want.Revision {
		t.Errorf("lifetime %v, revision counter %d", got.Lifetime, got.RevisionCounter)
	}
	checkCertificate(t, got.SigningCert, want.SigningCert)
	if got.AuthEphemeralKey != want.Ephemeral.key() || len(got.AuthClients) != want.AuthCount {
		t.Errorf("ephemeral key %x, %d clients", got.AuthEphemeralKey, len(got.AuthClients))
	}
	for i, c := range got.AuthClients {
		w := want.AuthClients[i]
		if !bytes.Equal(c.ID[:], w.ID) || !bytes.Equal(c.IV[:], w.IV) || !bytes.Equal(c.EncryptedCookie[:], w.Cookie) {
			t.Errorf("client %d: %x", i, c)
		}
	}
	if got.NeedsClientKey != (len(v.Clients) > 0) {
		t.Errorf("needs a client key: %v", got.NeedsClientKey)
	}
	if !slices.Equal(got.Create2Formats, want.Create2) || !slices.Equal(got.IntroAuthRequired, want.IntroAuth) ||
		got.SingleOnion != want.SingleOnion {
		t.Errorf("contents %+v", got.Contents)
	}
	if f := got.FlowControl; (f == nil) != (want.FlowControl == nil) || f != nil && f.String() != *want.FlowControl {
		t.Errorf("flow control %v", f)
	}
	var pow []string
	for _, p := range got.PowParams {
		pow = append(pow, p.String())
	}
	if !slices.Equal(pow, want.PowParams) {
		t.Errorf("proof of work %q, want %q", pow, want.PowParams)
	}
	if len(got.Dropped) != 0 || len(got.IntroductionPoints) != want.PointCount || want.PointCount != len(want.Points) {
		t.Fatalf("%d introduction points, %v dropped", len(got.IntroductionPoints), got.Dropped)
	}
	for i := range want.Points {
		checkPoint(t, &got.IntroductionPoints[i], want.Points[i])
	}
}

func checkPoint(t *testing.T, got *IntroductionPoint, want introVector) {
	t.Helper()
	if raw := appendLinkSpecifiers(nil, got.LinkSpecifiers); !bytes.Equal(raw, want.SpecifiersRaw) {
		t.Errorf("link specifiers %x, want %x", raw, want.SpecifiersRaw)
	}
	for i, l := range got.LinkSpecifiers {
		if l.Type != want.Specifiers[i].Type || !bytes.Equal(l.Data, want.Specifiers[i].Raw) {
			t.Errorf("link specifier %d: %v", i, l)
		}
	}
	if got.OnionKey != want.OnionKey.key() || got.AuthKey != want.AuthKey.key() || got.EncKey != want.EncKey.key() || got.Legacy {
		t.Errorf("keys %x %x %x", got.OnionKey, got.AuthKey, got.EncKey)
	}
	auth, enc := got.Certificates()
	if !bytes.Equal(auth.Bytes(), want.AuthCert.Raw) || !bytes.Equal(enc.Bytes(), want.EncCert.Raw) || enc.Key() != want.EncCert.Key.key() {
		t.Error("wrong certificates")
	}
	if hours := min(want.AuthCert.Hours, want.EncCert.Hours); got.Expires.Unix() != hours*3600 {
		t.Errorf("expires %v", got.Expires)
	}
}

func TestDecodeNeedsClientKey(t *testing.T) {
	tried := 0
	stranger, err := ParseClientKey([]byte("descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range loadCorpus(t).Descriptors {
		if v.WithoutKey == "" {
			continue
		}
		tried++
		var d Decoder
		for _, client := range []*ClientKey{nil, stranger} {
			_, err := d.Decode(v.raw(t), v.keys(t), client, v.now())
			var p *ParseError
			if !errors.Is(err, ErrClientKey) || !errors.As(err, &p) || p.Layer != LayerFirst || p.Keyword != kwEncrypted {
				t.Errorf("%s: error %v, want ErrClientKey", v.File, err)
			}
		}
	}
	enough(t, "descriptors for clients", tried, 15)
}

// TestDecodeOuter: the outer layer alone gives the same verdict on what it holds, as
// Decode does, and needs no key of a client.
func TestDecodeOuter(t *testing.T) {
	for _, v := range loadCorpus(t).Descriptors {
		var d Decoder
		got, err := d.DecodeOuter(v.raw(t), v.keys(t), v.now())
		if err != nil {
			t.Fatalf("%s: %v", v.File, err)
		}
		if got.RevisionCounter != v.Expected.Revision || got.Lifetime != time.Duration(v.Expected.Lifetime)*time.Minute {
			t.Errorf("%s: revision counter %d, lifetime %v", v.File, got.RevisionCounter, got.Lifetime)
		}
		checkCertificate(t, got.SigningCert, v.Expected.SigningCert)
		if _, err := d.DecodeOuter(v.raw(t), v.keys(t), got.SigningCert.Expires().Add(time.Hour)); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: after the certificate: %v", v.File, err)
		}
	}
	refused := 0
	for _, v := range loadCorpus(t).Bad {
		var whole, outer *ParseError
		_, err := new(Decoder).Decode(v.raw(t), v.keys(t), nil, v.now())
		errors.As(err, &whole)
		_, err = new(Decoder).DecodeOuter(v.raw(t), v.keys(t), v.now())
		errors.As(err, &outer)
		// The blob is the outer layer's, and what cannot be decrypted is blamed on it.
		wants := whole != nil && whole.Layer == LayerOuter && whole.Keyword != kwSuperencrypted
		if wants {
			refused++
		}
		if wants && (outer == nil || outer.Error() != whole.Error()) || whole == nil && outer != nil {
			t.Errorf("%s: %v, but Decode says %v", v.File, outer, whole)
		}
	}
	enough(t, "outer layers refused", refused, 15)
}

// TestDecodeBad holds every damaged descriptor to its verdict, which is the
// strict reading; doc/divergences.md lists where tor reads it otherwise.
func TestDecodeBad(t *testing.T) {
	for _, v := range loadCorpus(t).Bad {
		t.Run(v.File, func(t *testing.T) {
			var d Decoder
			got, err := d.Decode(v.raw(t), v.keys(t), nil, v.now())
			if v.Verdict == "reject" {
				var p *ParseError
				if !errors.As(err, &p) {
					t.Fatalf("error %v, want a parse error (%s)", err, v.What)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v (%s)", err, v.What)
			}
			if v.Usable != nil && len(got.IntroductionPoints) != *v.Usable {
				t.Errorf("%d introduction points, want %d (%s)", len(got.IntroductionPoints), *v.Usable, v.What)
			}
			if dropped := len(got.Dropped) > 0; dropped != (v.Verdict == "skip" || v.Verdict == "accept-or-skip" || v.File == "bad/ip-all-damaged.txt") {
				t.Errorf("dropped %v (%s)", got.Dropped, v.What)
			}
		})
	}
}

// TestDecodeErrors checks that errors name the place of the fault.
func TestDecodeErrors(t *testing.T) {
	want := map[string]ParseError{
		"bad/empty.txt":                    {Layer: LayerOuter, Keyword: kwDescriptor},
		"bad/version-2.txt":                {Layer: LayerOuter, Line: 1, Keyword: kwDescriptor},
		"bad/lifetime-word.txt":            {Layer: LayerOuter, Line: 2, Keyword: kwLifetime},
		"bad/cert-type-04.txt":             {Layer: LayerOuter, Line: 3, Keyword: kwSigningCert},
		"bad/missing-revision-counter.txt": {Layer: LayerOuter, Keyword: kwRevision},
		"bad/revision-hex.txt":             {Layer: LayerOuter, Line: 9, Keyword: kwRevision},
		"bad/first-layer-auth-type.txt":    {Layer: LayerFirst, Line: 1, Keyword: kwAuthType},
		"bad/flow-control-0.txt":           {Layer: LayerSecond, Line: 2, Keyword: kwFlowControl},
		"bad/pow-v1-twice.txt":             {Layer: LayerSecond, Keyword: kwPowParams},
		"bad/create2-missing.txt":          {Layer: LayerSecond, Line: 1, Keyword: kwIntroPoint},
		"bad/too-many-intro-points-21.txt": {Layer: LayerSecond, Keyword: kwIntroPoint},
	}
	for _, v := range loadCorpus(t).Bad {
		w, ok := want[v.File]
		if !ok {
			continue
		}
		delete(want, v.File)
		_, err := new(Decoder).Decode(v.raw(t), v.keys(t), nil, v.now())
		var p *ParseError
		if !errors.As(err, &p) {
			t.Errorf("%s: %v", v.File, err)
			continue
		}
		if p.Layer != w.Layer || p.Keyword != w.Keyword || (w.Line != 0 && p.Line != w.Line) {
			t.Errorf("%s: %v, want %s, line %d, %q", v.File, p, w.Layer, w.Line, w.Keyword)
		}
	}
	if len(want) != 0 {
		t.Errorf("no vectors for %v", want)
	}
}

// TestReencode makes tor's plaintexts again, byte for byte, from what was
// decoded.
func TestReencode(t *testing.T) {
	for _, v := range loadCorpus(t).Descriptors {
		client := v.clientKeys(t)[0]
		d, err := new(Decoder).Decode(v.raw(t), v.keys(t), client, v.now())
		if err != nil {
			t.Fatalf("%s: %v", v.File, err)
		}
		second := appendContents(nil, &d.Contents)
		for i := range d.IntroductionPoints {
			p := &d.IntroductionPoints[i]
			second = appendPoint(second, p, p.certs.auth, p.certs.enc)
		}
		if want := plain(t, v.Expected.SecondFile); !bytes.Equal(second, want) {
			t.Errorf("%s: the second layer differs:\n%s", v.File, second)
		}
		first := plain(t, v.Expected.FirstFile)
		auth := appendAuth(nil, d.AuthEphemeralKey, d.AuthClients)
		rest, ok := bytes.CutPrefix(first, auth)
		if !ok {
			t.Errorf("%s: the first layer differs:\n%s", v.File, auth)
			continue
		}
		f, err := parseFirst(first)
		if err != nil {
			t.Fatal(err)
		}
		if again := appendObject([]byte(kwEncrypted+"\n"), labelMessage, f.blob); !bytes.Equal(rest, again) {
			t.Errorf("%s: the end of the first layer differs", v.File)
		}
		if objectLength(labelMessage, len(f.blob)) != len(rest)-len(kwEncrypted)-1 {
			t.Errorf("%s: objectLength is wrong", v.File)
		}
	}
}

// TestOuterLines tries what the vectors leave out. No signature is verified.
func TestOuterLines(t *testing.T) {
	good := string(loadCorpus(t).Descriptors[0].raw(t))
	replace := func(from, to string) string { return strings.Replace(good, from, to, 1) }
	for name, c := range map[string]struct {
		text    string
		keyword string // of the error; empty if there is none
	}{
		"as it is":           {good, ""},
		"empty lines":        {replace("revision-counter", "\n\nrevision-counter"), ""},
		"trailing blanks":    {replace("descriptor-lifetime 180", "descriptor-lifetime 180  "), ""},
		"unknown object":     {replace("revision-counter", "new-line\n-----BEGIN X-----\nAAAA\n-----END X-----\nrevision-counter"), ""},
		"unpadded object":    {replace("==\n-----END MESSAGE", "\n-----END MESSAGE"), ""},
		"bad unknown object": {replace("revision-counter", "new-line\n-----BEGIN X-----\nAAA*\n-----END X-----\nrevision-counter"), "new-line"},
		"comment":            {replace("revision-counter", "# 1\nrevision-counter"), ""},
		"comment first":      {"# 1\n" + good, "#"},
		"comment last":       {good + "# 1\n", "#"},
		"leading blank":      {replace("revision-counter", " revision-counter"), kwRevision},
		"annotation":         {replace("revision-counter", "@type x\nrevision-counter"), "@type"},
		"NUL":                {replace("revision-counter", "new\x00\nrevision-counter"), "?"},
		"lone object":        {"-----BEGIN X-----\nAAAA\n-----END X-----\n" + good, "-----BEGIN"},
		"lifetime +180":      {replace("descriptor-lifetime 180", "descriptor-lifetime +180"), kwLifetime},
		"revision 007":       {replace("revision-counter ", "revision-counter 0"), kwRevision},
		"object for number":  {replace("revision-counter", "revision-counter 1\n-----BEGIN X-----\nAAAA\n-----END X-----\nrevision-counter"), kwRevision},
		"argument of cert":   {replace("descriptor-signing-key-cert", "descriptor-signing-key-cert x"), kwSigningCert},
		"no label":           {replace("-----BEGIN ED25519 CERT-----", "-----BEGIN -----"), kwSigningCert},
		"CR in an object":    {replace("==\n-----END MESSAGE", "==\r\n-----END MESSAGE"), kwSuperencrypted},
		"spare bits":         {replace("==\n-----END MESSAGE", "+==\n-----END MESSAGE"), kwSuperencrypted},
		"padded signature":   {strings.TrimSuffix(good, "\n") + "==\n", kwSignature},
		"line after the end": {good + "new-line\n", "new-line"},
	} {
		_, err := parseOuter([]byte(c.text))
		p := (*ParseError)(nil)
		switch {
		case c.keyword == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.As(err, &p) || p.Layer != LayerOuter || (p.Keyword != c.keyword && c.keyword != "?"):
			t.Errorf("%s: error %v, want one about %q", name, err, c.keyword)
		}
	}
}

// legacyLines are the lines of a legacy point, as tor once wrote them.
func legacyLines(t *testing.T, bits int) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: labelLegacyKey, Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	return "legacy-key\n" + string(block) + "legacy-key-cert\n-----BEGIN CROSSCERT-----\nAAAA\n-----END CROSSCERT-----\n"
}

// TestSecondLines tries in the second layer what the vectors leave out, in a
// text of two introduction points.
func TestSecondLines(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 2, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	good := string(openForTest(t, raw, s.keys))
	replace := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %q", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	second := strings.LastIndex(good, kwIntroPoint)
	withoutCert, _, _ := strings.Cut(legacyLines(t, 1024), kwLegacyCert)
	for name, c := range map[string]struct {
		text           string
		points, legacy int // -1 points: the whole is refused
	}{
		"as it is":               {good, 2, 0},
		"line among the points":  {good[:second] + "single-onion-service\n" + good[second:], 2, 0},
		"twice among the points": {good + "create2-formats 2\n", -1, 0},
		"unknown line":           {replace("onion-key", "new-key\n-----BEGIN X-----\nAAAA\n-----END X-----\nonion-key"), 2, 0},
		"unknown bad object":     {replace("onion-key", "new-key\n-----BEGIN X-----\nA\n-----END X-----\nonion-key"), -1, 0},
		"other formats":          {replace("create2-formats 2", "create2-formats 1 2 3"), 2, 0},
		"no ntor":                {replace("create2-formats 2", "create2-formats 1 3"), -1, 0},
		"format in words":        {replace("create2-formats 2", "create2-formats 2 ntor"), -1, 0},
		"object for formats":     {replace("create2-formats 2\n", "create2-formats 2\n-----BEGIN X-----\nAAAA\n-----END X-----\n"), -1, 0},
		"known auth":             {replace("flow-control", "intro-auth-required ed25519 x\nflow-control"), 2, 0},
		"no auth":                {replace("flow-control", "intro-auth-required\nflow-control"), -1, 0},
		"flow-control in words":  {replace("flow-control 1-2 31", "flow-control new 31"), -1, 0},
		"flow-control and more":  {replace("flow-control 1-2 31", "flow-control 1-2 31 x"), 2, 0},
		"33 pow-params":          {replace("flow-control", strings.Repeat("pow-params x\n", 33)+"flow-control"), -1, 0},
		"33 words":               {replace("flow-control", "intro-auth-required"+strings.Repeat(" ed25519", 33)+"\nflow-control"), -1, 0},
		"legacy key, no cert":    {good + withoutCert, 2, 1},
		"opt":                    {replace("flow-control", "opt flow-control"), 2, 0},
		"opt point":              {good[:second] + "opt " + good[second:], 0, 0},
		"specifier argument":     {replace("\nonion-key", " x\nonion-key"), 1, 0},
		"two ntor keys":          {replace("enc-key ntor", "onion-key ntor AAAA\nenc-key ntor"), 1, 0},
		"another onion-key":      {replace("enc-key ntor", "onion-key new x\nenc-key ntor"), 2, 0},
		"zero onion-key":         {good[:second] + zeroKey(good[second:], "onion-key ntor "), 1, 0},
		"zero enc-key":           {good[:second] + zeroKey(good[second:], "enc-key ntor "), 1, 0},
		"argument of auth-key":   {replace("auth-key\n", "auth-key x\n"), 1, 0},
		"legacy point":           {good + legacyLines(t, 1024), 2, 1},
		"legacy key too long":    {good + legacyLines(t, 2048), 1, 0},
		"legacy key, bad cert":   {good + strings.ReplaceAll(legacyLines(t, 1024), "CROSSCERT", "CERT"), 1, 0},
	} {
		d := checkSealed(t, s, []byte(c.text))
		if d == nil {
			if c.points != -1 {
				t.Errorf("%s: refused", name)
			}
			continue
		}
		legacy := 0
		for _, p := range d.IntroductionPoints {
			if p.Legacy {
				legacy++
			}
		}
		if len(d.IntroductionPoints) != c.points || legacy != c.legacy || (c.points < 2) != (len(d.Dropped) > 0) {
			t.Errorf("%s: %d points, %d legacy, dropped %v; want %d and %d", name, len(d.IntroductionPoints), legacy, d.Dropped, c.points, c.legacy)
		}
	}
}

func zeroKey(text, keyword string) string {
	at := strings.Index(text, keyword) + len(keyword)
	return text[:at] + strings.Repeat("A", 43) + "=" + text[at+44:]
}

// TestTime checks that every decoding asks the clock it is given, remembered
// or not.
func TestTime(t *testing.T) {
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 20, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	// Point n expires n+1 hours after testNow, at the end of that second.
	for _, hours := range []int{0, 3, 20, 1} {
		for extra, more := range map[time.Duration]int{0: 1, time.Second: 0} {
			now := testNow.Add(time.Duration(hours)*time.Hour + extra)
			got, err := d.Decode(raw, s.keys, nil, now)
			if err != nil {
				t.Fatal(err)
			}
			want := min(20, 20-hours+more)
			if n := len(got.IntroductionPoints); n != want || len(got.Dropped) != 20-want {
				t.Errorf("after %v: %d points, %d dropped, want %d", now.Sub(testNow), n, len(got.Dropped), want)
			}
			for _, fault := range got.Dropped {
				if !errors.Is(fault, ErrExpired) || fault.Line == 0 || fault.Layer != LayerSecond {
					t.Errorf("dropped: %v", fault)
				}
			}
		}
	}
	if _, err := d.Decode(raw, s.keys, nil, s.cert.Expires().Add(time.Second)); !errors.Is(err, ErrExpired) {
		t.Errorf("after the signing key's time: %v", err)
	}
	if _, err := d.Decode(raw, s.keys, nil, testNow); err != nil {
		t.Errorf("before it again: %v", err)
	}
}

// TestExpiredPointsDoNotCount: of 21 points, one expired, 20 are left.
func TestExpiredPointsDoNotCount(t *testing.T) {
	s := newTestService(t, 1)
	points := testPoints(t, 21, seeded(1))
	var text []byte
	for _, part := range [][]IntroductionPoint{points[:20], points[20:]} {
		raw, err := s.encoder(t).Encode(torContents(part), 9, seeded(1))
		if err != nil {
			t.Fatal(err)
		}
		second := openForTest(t, raw, s.keys)
		text = append(text, second[strings.Index(string(second), "\n"+kwIntroPoint)+1:]...)
	}
	raw := sealText(t, s, append([]byte("create2-formats 2\n"), text...), 9)
	var d Decoder
	if _, err := d.Decode(raw, s.keys, nil, testNow); err == nil {
		t.Error("21 points accepted")
	}
	if got, err := d.Decode(raw, s.keys, nil, testNow.Add(time.Hour+time.Second)); err != nil || len(got.IntroductionPoints) != 20 {
		t.Errorf("after one expired: %v", err)
	}
}

// TestDecodeOtherKeys: what one key opens stays shut to another, remembered or
// not.
func TestDecodeOtherKeys(t *testing.T) {
	s, other := newTestService(t, 1), newTestService(t, 7)
	raw, err := s.encoder(t).Encode(torContents(nil), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	for range 2 {
		if _, err := d.Decode(raw, s.keys, nil, testNow); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(raw, other.keys, nil, testNow); !errors.Is(err, ErrNotOurs) {
			t.Errorf("another service: %v", err)
		}
		mixed := s.keys
		mixed.Subcredential = other.keys.Subcredential
		if _, err := d.Decode(raw, mixed, nil, testNow); !errors.Is(err, errMAC) {
			t.Errorf("another subcredential: %v", err)
		}
	}
	secret, err := newX25519(seeded(9))
	if err != nil {
		t.Fatal(err)
	}
	key := newClientKey(secret)
	restricted := torContents(nil)
	restricted.Clients = []AuthorizedClient{key.Client()}
	if raw, err = s.encoder(t).Encode(restricted, 9, seeded(1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.Decode(raw, s.keys, key, testNow); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(raw, s.keys, nil, testNow); !errors.Is(err, ErrClientKey) {
			t.Errorf("without the key: %v", err)
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := recent[int, int]{limit: 10}
	for i := range 1000 {
		r.put(i, i)
		if n := len(r.young) + len(r.old); n > 10 {
			t.Fatalf("%d values kept, want at most 10", n)
		}
		if v, ok := r.get(i - min(i, 1)); !ok || v != i-min(i, 1) {
			t.Fatalf("%d forgotten after %d", i-1, i)
		}
	}
	if _, ok := r.get(3); ok {
		t.Error("3 was never forgotten")
	}
}

func TestPointIdentity(t *testing.T) {
	p := testPoints(t, 2, seeded(1))
	if p[0].Relay() == p[1].Relay() || p[0].Relay() == (Fingerprint{}) {
		t.Errorf("relays %s and %s", p[0].Relay(), p[1].Relay())
	}
	q := p[0]
	q.LinkSpecifiers = slices.Clone(q.LinkSpecifiers)
	if !q.Equal(&p[0]) {
		t.Error("a copy differs")
	}
	if q.LinkSpecifiers = q.LinkSpecifiers[:2]; q.Equal(&p[0]) || q.Relay() != p[0].Relay() {
		t.Errorf("without its Ed25519 identity: relay %s, want %s, by which clients go", q.Relay(), p[0].Relay())
	}
	for _, spoil := range []func(*IntroductionPoint){
		func(p *IntroductionPoint) { p.AuthKey[0]++ }, func(p *IntroductionPoint) { p.EncKey[0]++ },
		func(p *IntroductionPoint) { p.OnionKey[0]++ }, func(p *IntroductionPoint) { p.Legacy = true },
		func(p *IntroductionPoint) { p.Expires = p.Expires.Add(time.Hour) },
		func(p *IntroductionPoint) { p.LinkSpecifiers = []LinkSpecifier{{9, nil}, {9, nil}, {9, nil}} },
	} {
		q := p[0]
		spoil(&q)
		if q.Equal(&p[0]) {
			t.Errorf("%+v equals %+v", q, p[0])
		}
	}
}
