package descriptor

import (
	"bytes"
	"errors"
	"slices"
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
			second = appendPoint(second, p, p.authCert, p.encCert)
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
