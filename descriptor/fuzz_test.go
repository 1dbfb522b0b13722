package descriptor

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
)

func FuzzAddress(f *testing.F) {
	file := loadJSON[addressFile](f, "addresses.json")
	for _, v := range file.Valid {
		f.Add(v.Address)
	}
	for _, v := range file.Checked {
		f.Add(v.Address)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q gives %s, which gives %v, %v", s, a, again, err)
		}
		if _, err := a.Keys(Period{1, DefaultPeriodLength}); err != nil {
			t.Errorf("%q cannot be blinded: %v", s, err)
		}
	})
}

func FuzzCertificate(f *testing.F) {
	file := loadJSON[struct {
		Certificates []struct {
			Raw hexBytes `json:"certificate"`
		} `json:"certificates"`
	}](f, "certs.json")
	enough(f, "certificates", len(file.Certificates), 46)
	for _, v := range file.Certificates {
		f.Add([]byte(v.Raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseCertificate(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Bytes(), raw) {
			t.Error("other bytes")
		}
		length := certHeader + len(c.Signature())
		for _, e := range c.Extensions() {
			length += 4 + len(e.Data)
		}
		if length != len(raw) {
			t.Errorf("parts of %d bytes make %d", length, len(raw))
		}
		signer, _ := c.SigningKey()
		_ = c.Verify(signer, c.Expires())
	})
}

func FuzzClientKey(f *testing.F) {
	f.Add([]byte("OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	f.Add([]byte("descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q\n"))
	f.Add([]byte("25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid:descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseClientKey(text)
		if err != nil {
			return
		}
		if err := checkX25519(k.Client().PublicKey); err != nil {
			t.Errorf("%q: public key: %v", text, err)
		}
	})
}

// renderOuter writes a wrapper as Encode does.
func renderOuter(o *outer) []byte {
	b := []byte("hs-descriptor 3\ndescriptor-lifetime " + strconv.Itoa(int(o.lifetime.Minutes())) + "\ndescriptor-signing-key-cert\n")
	b = append(appendObject(b, labelCert, []byte(o.cert.raw)), "\nrevision-counter "...)
	b = append(strconv.AppendUint(b, o.revision, 10), "\nsuperencrypted\n"...)
	b = append(appendObject(b, labelMessage, o.blob), "\nsignature "...)
	return append(appendBareValue(b, o.signature[:]), '\n')
}

func FuzzOuter(f *testing.F) {
	c := loadCorpus(f)
	f.Add(c.Descriptors[0].raw(f))
	for _, v := range c.Bad {
		if raw := v.raw(f); len(raw) < 30000 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := parseOuter(raw)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(raw, o.signed) {
			t.Error("signs other bytes than it was given")
		}
		again, err := parseOuter(renderOuter(o))
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		o.signed, o.signedLength, o.certLine, o.blobLine, o.signedLine = again.signed, again.signedLength, again.certLine, again.blobLine, again.signedLine
		if !reflect.DeepEqual(o, again) {
			t.Errorf("written again: %+v, was %+v", again, o)
		}
	})
}

// renderFirst writes a first layer as Encode does.
func renderFirst(l *firstLayer) []byte {
	b := appendAuth(nil, l.ephemeral, l.clients)
	if l.caaCritical {
		b = append(b, "caa-critical\n"...)
	}
	return appendObject(append(b, "encrypted\n"...), labelMessage, l.blob)
}

func FuzzFirst(f *testing.F) {
	for _, v := range loadCorpus(f).Descriptors[:6] {
		f.Add(plain(f, v.Expected.FirstFile))
	}
	f.Add([]byte("desc-auth-type x25519\ncaa-critical\ndesc-auth-ephemeral-key AAAA\nauth-client a b c\nencrypted\n-----BEGIN MESSAGE-----\nAAAA\n-----END MESSAGE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseFirst(text)
		if err != nil {
			return
		}
		again, err := parseFirst(renderFirst(l))
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		l.blobLine = again.blobLine
		if !reflect.DeepEqual(l, again) {
			t.Errorf("written again: %+v, was %+v", again, l)
		}
	})
}

// renderSecond writes the intact points of a second layer with the
// certificates that they came with.
func renderSecond(l *secondLayer) []byte {
	b := appendContents(nil, &l.contents)
	for i := range l.points {
		p := &l.points[i].IntroductionPoint
		b = appendPoint(b, p, p.certs.auth, p.certs.enc)
	}
	return b
}

func FuzzSecond(f *testing.F) {
	c := loadCorpus(f)
	for _, v := range c.Descriptors {
		if text := plain(f, v.Expected.SecondFile); len(text) < 4000 {
			f.Add(text)
		}
	}
	for _, v := range c.Bad {
		if text, ok := v.second(f); ok && len(text) < 4000 {
			f.Add(text)
		}
	}
	f.Add([]byte("create2-formats 2\ncaa 128 issue ca.example\ncaa 0 iodef \"mailto:a\"\ncaa 0 issue\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseSecond(text)
		if err != nil {
			return
		}
		checkSecondAgain(t, l)
	})
}

func FuzzCAA(f *testing.F) {
	for _, text := range []string{`0 issue ca.example`, `128 issue "ca.example; validationmethods=onion-csr-01"`, `0 iodef ""`, `0 issue "\"\\"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseCAA(text)
		if err != nil {
			return
		}
		if again, err := ParseCAA(r.String()); err != nil || again != r || r.check() != nil {
			t.Errorf("%q is written as %q, which reads as %+v, %v", text, r, again, err)
		}
	})
}

// checkSecondAgain holds that what parses is written, read and written alike.
func checkSecondAgain(t *testing.T, l *secondLayer) {
	t.Helper()
	text := renderSecond(l)
	again, err := parseSecond(text)
	if err != nil {
		t.Fatalf("written again: %v\n%s", err, text)
	}
	if !reflect.DeepEqual(again.contents, l.contents) {
		t.Errorf("written again: %+v, was %+v", again.contents, l.contents)
	}
	if len(again.points) != len(l.points) || len(again.dropped) != 0 {
		t.Fatalf("%d points written again are %d, dropped %v", len(l.points), len(again.points), again.dropped)
	}
	for i := range l.points {
		p, q := l.points[i], again.points[i]
		p.Legacy = false // the legacy key is not written again
		if !q.Equal(&p.IntroductionPoint) || *q.certs != *p.certs {
			t.Errorf("point %d written again: %+v, was %+v", i, q, p)
		}
	}
	if !bytes.Equal(renderSecond(again), text) {
		t.Error("written twice differs from written once")
	}
}

// second decrypts the second layer of a vector, if it can be.
func (v badVector) second(t testing.TB) ([]byte, bool) {
	t.Helper()
	keys := v.keys(t)
	o, err := parseOuter(v.raw(t))
	if err != nil {
		return nil, false
	}
	f, err := o.openFirst(&keys)
	if err != nil {
		return nil, false
	}
	text, err := layerSecret{keys: &keys, revision: o.revision, constant: secondConstant}.open(f.blob)
	return text, err == nil
}

func FuzzDecode(f *testing.F) {
	c := loadCorpus(f)
	keys := c.Descriptors[0].keys(f)
	for _, v := range c.Bad {
		if raw := v.raw(f); len(raw) < 20000 {
			f.Add(raw)
		}
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := d.Decode(raw, keys, nil, c.Descriptors[0].now()); err == nil && got.SigningCert.Type() != CertHSDescSigning {
			t.Error("accepted without a certificate")
		}
	})
}

// FuzzDecodeSealed signs and encrypts whatever second layer it is given, so
// that the whole of Decode runs; what it accepts can be published again.
func FuzzDecodeSealed(f *testing.F) {
	s := newTestService(f, 1)
	for _, v := range loadCorpus(f).Bad {
		if text, ok := v.second(f); ok && len(text) < 4000 {
			f.Add(text)
		}
	}
	raw, err := s.encoder(f).Encode(torContents(testPoints(f, 2, seeded(1))), 1, seeded(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(openForTest(f, raw, s.keys))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 || len(text) > 20000 {
			return
		}
		checkSealed(t, s, text)
	})
}

// sealText signs and encrypts a second layer that Encode would never write.
func sealText(t testing.TB, s testService, text []byte, revision uint64) []byte {
	t.Helper()
	e := s.encoder(t)
	auth, err := e.authFor(nil, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	room := &layerRoom{second: append(append(make([]byte, saltSize), text...), make([]byte, macSize)...)}
	if err := (layerSecret{keys: &s.keys, revision: revision, constant: secondConstant}).seal(room.second); err != nil {
		t.Fatal(err)
	}
	if err := e.sealFirst(room, auth, false, revision, seeded(2)); err != nil {
		t.Fatal(err)
	}
	raw, err := e.signWhole(room.first, testNow, revision, e.signWith(nil), seeded(3))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkSealed decodes a sealed text and holds Decode to what it promises.
func checkSealed(t testing.TB, s testService, text []byte) *Descriptor {
	t.Helper()
	d, err := new(Decoder).Decode(sealText(t, s, text, 9), s.keys, nil, testNow)
	if err != nil {
		if p := (*ParseError)(nil); !errors.As(err, &p) {
			t.Errorf("%v is no parse error", err)
		}
		return nil
	}
	if len(d.IntroductionPoints) > MaxIntroductionPoints || len(d.Dropped) > maxDropped {
		t.Errorf("%d points, %d dropped", len(d.IntroductionPoints), len(d.Dropped))
	}
	again := d.Contents
	again.IntroductionPoints = slices.DeleteFunc(slices.Clone(again.IntroductionPoints), func(p IntroductionPoint) bool { return p.Legacy })
	if len(again.IntroAuthRequired) > 0 && again.IntroAuthRequired[0] != introAuthWord {
		return d // which tor would refuse
	}
	raw, err := s.encoder(t).Encode(&again, 10, seeded(3))
	if errors.Is(err, ErrTooLarge) {
		return d
	}
	if err != nil {
		t.Fatalf("what was accepted cannot be published: %v\n%s", err, text)
	}
	d2, err := new(Decoder).Decode(raw, s.keys, nil, testNow)
	if err != nil {
		t.Fatalf("what was encoded is refused: %v", err)
	}
	if len(d2.IntroductionPoints) != len(again.IntroductionPoints) {
		t.Errorf("%d points, encoded %d", len(d2.IntroductionPoints), len(again.IntroductionPoints))
	}
	return d
}

// soaked returns how often to do something: usually, or when there is time.
func soaked(usually, soaking int) int {
	if os.Getenv("BALANCER_SOAK") != "" {
		return soaking
	}
	return usually
}

// TestMutateLines damages the second layer line by line and byte by byte. The
// decoder may accept or refuse, but what it accepts it stands for.
func TestMutateLines(t *testing.T) {
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 2, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	text := openForTest(t, raw, s.keys)
	lines := bytes.SplitAfter(text, []byte("\n"))
	rng := rand.New(rand.NewPCG(3, 4))
	whole, damaged, refused := 0, 0, 0
	count := func(mutant []byte) {
		switch d := checkSealed(t, s, mutant); {
		case d == nil:
			refused++
		case len(d.IntroductionPoints) < 2:
			damaged++
		default:
			whole++
		}
	}
	for i := range lines {
		without := bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)
		twice := bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil)
		swapped := slices.Clone(lines)
		j := rng.IntN(len(lines))
		swapped[i], swapped[j] = swapped[j], swapped[i]
		for _, mutant := range [][]byte{without, twice, bytes.Join(swapped, nil)} {
			if len(mutant) > 0 {
				count(mutant)
			}
		}
	}
	for range soaked(200, 2000) {
		mutant := bytes.Clone(text)
		mutant[rng.IntN(len(mutant))] ^= 1 << rng.IntN(8)
		count(mutant)
	}
	if whole == 0 || damaged < 100 || refused < 50 {
		t.Errorf("%d mutants accepted whole, %d with points dropped, %d refused: the mutations do not reach what they should", whole, damaged, refused)
	}
}

// TestMutateRaw changes single bits of what came over the wire: the signature
// covers all of it.
func TestMutateRaw(t *testing.T) {
	s := newTestService(t, 1)
	raw, err := s.encoder(t).Encode(torContents(testPoints(t, 2, seeded(1))), 9, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for i := 0; i < len(raw)-1; i += 1 + rng.IntN(soaked(27, 1)) { // the last newline may as well be missing
		mutant := bytes.Clone(raw)
		mutant[i] ^= 1 << rng.IntN(8)
		if _, err := new(Decoder).Decode(mutant, s.keys, nil, testNow); err == nil {
			t.Errorf("byte %d changed from %q to %q: accepted", i, raw[i], mutant[i])
		}
	}
	for i := 0; i < len(raw)-1; i += 97 {
		if _, err := new(Decoder).Decode(raw[:i], s.keys, nil, testNow); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
}
