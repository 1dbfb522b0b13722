package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawBytes draws n bytes.
func drawBytes(t *rapid.T, n int, label string) []byte {
	return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, label)
}

func drawX25519(t *rapid.T, label string) [32]byte {
	k, err := newX25519(bytes.NewReader(drawBytes(t, 32, label)))
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(k.PublicKey().Bytes())
}

func drawPoint(t *rapid.T) IntroductionPoint {
	specs := []LinkSpecifier{
		{LinkIPv4, append([]byte{127, 0, 0, 1, 1}, drawBytes(t, 1, "port")...)},
		{LinkRSA, drawBytes(t, 20, "RSA")},
		{LinkEd25519, drawBytes(t, 32, "Ed25519")},
	}
	if rapid.Bool().Draw(t, "has IPv6") {
		specs = append(specs, LinkSpecifier{LinkIPv6, drawBytes(t, 18, "IPv6")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "unknown specifiers") {
		specs = append(specs, LinkSpecifier{rapid.ByteRange(4, 255).Draw(t, "type"), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data")})
	}
	return IntroductionPoint{
		LinkSpecifiers: rapid.Permutation(specs).Draw(t, "specifiers"),
		OnionKey:       drawX25519(t, "onion-key"),
		AuthKey:        [32]byte(ed25519.NewKeyFromSeed(drawBytes(t, 32, "auth-key")).Public().(ed25519.PublicKey)),
		EncKey:         drawX25519(t, "enc-key"),
		Expires:        testNow.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "hours")) * time.Hour),
	}
}

func drawContents(t *rapid.T) *Contents {
	c := &Contents{SingleOnion: rapid.Bool().Draw(t, "single onion"), CAACritical: rapid.Bool().Draw(t, "CAA critical")}
	c.Create2Formats = rapid.Permutation(append([]int{2}, rapid.SliceOfN(rapid.IntRange(0, 65535), 0, 3).Draw(t, "formats")...)).Draw(t, "order of formats")
	if rapid.Bool().Draw(t, "has introduction auth") {
		c.IntroAuthRequired = append([]string{"ed25519"}, rapid.SliceOfN(rapid.StringMatching(`[a-z0-9]{1,9}`), 0, 2).Draw(t, "auth")...)
	}
	if rapid.Bool().Draw(t, "has flow control") {
		c.FlowControl = &FlowControl{rapid.StringMatching(`[1-9]-[1-9]`).Draw(t, "versions"), rapid.ByteRange(1, 255).Draw(t, "SENDME")}
	}
	if rapid.Bool().Draw(t, "has proof of work") {
		c.PowParams = append(c.PowParams, PowParams{Scheme: powScheme, Seed: [32]byte(drawBytes(t, 32, "seed")), Effort: rapid.Uint32().Draw(t, "effort"),
			Expires: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "expires"), 0).UTC()})
	}
	if rapid.Bool().Draw(t, "has unknown proof of work") {
		c.PowParams = append(c.PowParams, PowParams{Scheme: "v9", Other: rapid.StringMatching(`([a-z0-9]{1,9}( [a-z0-9]{1,9}){0,2})?`).Draw(t, "arguments")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "CAA records") {
		c.CAA = append(c.CAA, CAA{Flags: rapid.Byte().Draw(t, "flags"), Tag: rapid.StringMatching(`[a-zA-Z0-9]{1,12}`).Draw(t, "tag"),
			Value: rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "value")})
	}
	for range rapid.IntRange(0, 5).Draw(t, "number of points") {
		c.IntroductionPoints = append(c.IntroductionPoints, drawPoint(t))
	}
	return c
}

// TestEncodeThenDecode holds that decoding gives back what was encoded.
func TestEncodeThenDecode(t *testing.T) {
	s := newTestService(t, 1)
	e := s.encoder(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawContents(t)
		revision := rapid.Uint64().Draw(t, "revision")
		var key *ClientKey
		if rapid.Bool().Draw(t, "for clients") {
			secret, err := newX25519(bytes.NewReader(drawBytes(t, 32, "client")))
			if err != nil {
				t.Fatal(err)
			}
			key = newClientKey(secret)
			want.Clients = []AuthorizedClient{{drawX25519(t, "another client")}, key.Client()}
		}
		raw, err := e.Encode(want, revision, seeded(rapid.Byte().Draw(t, "randomness")))
		if err != nil {
			t.Fatal(err)
		}
		got, err := new(Decoder).Decode(raw, s.keys, key, testNow)
		if err != nil {
			t.Fatal(err)
		}
		if got.RevisionCounter != revision || got.NeedsClientKey != (key != nil) || got.SigningCert != s.cert || len(got.Dropped) != 0 {
			t.Fatalf("revision %d, needs key %v, dropped %v", got.RevisionCounter, got.NeedsClientKey, got.Dropped)
		}
		points := got.IntroductionPoints
		if len(points) != len(want.IntroductionPoints) {
			t.Fatalf("%d points, want %d", len(points), len(want.IntroductionPoints))
		}
		for i := range points {
			if !points[i].Equal(&want.IntroductionPoints[i]) {
				t.Fatalf("point %d: %+v, want %+v", i, points[i], want.IntroductionPoints[i])
			}
		}
		rest, wantRest := got.Contents, *want
		rest.IntroductionPoints, wantRest.IntroductionPoints, wantRest.Clients = nil, nil, nil
		if !reflect.DeepEqual(rest, wantRest) {
			t.Fatalf("contents %+v, want %+v", rest, wantRest)
		}
	})
}

// TestRevisionOrder holds that a later moment gives a greater counter.
func TestRevisionOrder(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		k, err := NewRevisionKey(drawBytes(t, 32, "key"))
		if err != nil {
			t.Fatal(err)
		}
		a := rapid.Int64Range(0, MaxRevisionSeconds-2).Draw(t, "earlier")
		b := rapid.Int64Range(a+1, MaxRevisionSeconds-1).Draw(t, "later")
		first, err := k.RevisionCounter(start, start.Add(time.Duration(a)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		second, err := k.RevisionCounter(start, start.Add(time.Duration(b)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if first >= second || second >= first+uint64(b-a)<<17 {
			t.Fatalf("%d after %d s, %d after %d s", first, a, second, b)
		}
	})
}

// TestPeriodPartition holds that periods follow each other without a gap.
func TestPeriodPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := time.Duration(rapid.IntRange(1, 20000).Draw(t, "minutes")) * time.Minute
		offset := time.Duration(rapid.IntRange(0, 1440).Draw(t, "offset")) * time.Minute
		now := time.Unix(rapid.Int64Range(1<<30, 1<<33).Draw(t, "now"), 0)
		p := PeriodAt(now, length, offset)
		if now.Before(p.Start(offset)) || !now.Before(p.End(offset)) || !p.End(offset).Equal(p.Next().Start(offset)) {
			t.Fatalf("%v in %s from %v to %v", now, p, p.Start(offset), p.End(offset))
		}
	})
}
