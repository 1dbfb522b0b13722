package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"
)

// hourly certifies the key of s for the hours from testNow on.
func (s testService) hourly(t testing.TB, seed byte, hours int) HourlyCertificates {
	t.Helper()
	identity, err := IdentityKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(s.keys.Period)
	if err != nil {
		t.Fatal(err)
	}
	defer blinded.Wipe()
	h, err := blinded.CertifyHours([32]byte(s.signing.Public().(ed25519.PublicKey)),
		SigningCertExpiries(testNow, testNow.Add(time.Duration(hours-1)*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if h.Count() != hours {
		t.Fatalf("%d certificates, want %d", h.Count(), hours)
	}
	return h
}

func TestSigningCertExpiries(t *testing.T) {
	half := testNow.Truncate(time.Hour).Add(30 * time.Minute)
	for _, test := range []struct {
		from, until time.Duration // after half
		count       int
	}{
		{0, 0, 1}, {0, 29 * time.Minute, 1}, {0, 31 * time.Minute, 2}, {0, 48 * time.Hour, 49}, {0, -5 * time.Hour, 1},
		{-30 * time.Minute, 0, 2}, {30 * time.Minute, 48 * time.Hour, 49}, {0, 1 << 62, MaxHours},
	} {
		e := SigningCertExpiries(half.Add(test.from), half.Add(test.until))
		if e.Count != test.count || !e.First.Equal(SigningCertExpiry(half.Add(test.from))) {
			t.Errorf("from %s to %s: %d from %s on, want %d", test.from, test.until, e.Count, e.First, test.count)
		}
		if want := SigningCertExpiry(half.Add(max(test.from, test.until))); e.Count < MaxHours && !e.Last().Equal(want) {
			t.Errorf("from %s to %s: the last is %s, want %s", test.from, test.until, e.Last(), want)
		}
	}
}

// TestHourly: at any moment, the certificate is the one that tor would make then.
func TestHourly(t *testing.T) {
	const hours = 53
	s := newTestService(t, 1)
	h := s.hourly(t, 1, hours)
	identity, _ := IdentityKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	blinded, err := identity.Blind(s.keys.Period)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Verify(s.keys.Blinded, testNow); err != nil {
		t.Fatal(err)
	}
	seen := map[Certificate]bool{}
	for at := testNow; at.Before(testNow.Add((hours - 1) * time.Hour)); at = at.Add(19 * time.Minute) {
		got := h.At(at)
		want, err := blinded.Certify(h.First().Key(), SigningCertExpiry(at))
		if err != nil {
			t.Fatal(err)
		}
		if got != want || !h.ExpiresAt(at).Equal(want.Expires()) {
			t.Fatalf("at %s: %x, want %x", at, got.Bytes(), want.Bytes())
		}
		seen[got] = true
	}
	if len(seen) != hours {
		t.Errorf("%d certificates in %d hours", len(seen), hours)
	}
	if got := h.At(testNow.Add(-30 * time.Hour)); got != h.First() {
		t.Error("before the first hour, not the first")
	}
	if got := h.At(testNow.Add(100 * 24 * time.Hour)).Expires(); !got.Equal(h.Expires()) || !h.Expires().Equal(SigningCertExpiry(testNow.Add((hours-1)*time.Hour))) {
		t.Errorf("after the last hour: %s; the last expires at %s", got, h.Expires())
	}
	if err := h.Verify(s.keys.Blinded, h.Expires().Add(time.Second)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after all: %v", err)
	}
	again, err := ParseHourly(h.Bytes())
	if err != nil || again != h {
		t.Errorf("read again: %v", err)
	}
	if n := len(h.Bytes()); n != 140+(hours-1)*64 {
		t.Errorf("%d bytes", n)
	}
	if one, err := ParseHourly(s.cert.Bytes()); err != nil || one != Hourly(s.cert) || one.At(testNow.Add(40*time.Hour)) != s.cert {
		t.Errorf("a single certificate: %v", err)
	}
	if zero := (HourlyCertificates{}); !zero.IsZero() || zero.Count() != 0 || !zero.At(testNow).IsZero() || zero.Verify(s.keys.Blinded, testNow) == nil {
		t.Error("the zero value")
	}
}

func TestHourlyRefused(t *testing.T) {
	s := newTestService(t, 1)
	good := s.hourly(t, 1, 5).Bytes()
	for _, n := range []int{0, 139, 141, len(good) - 1, len(good) + 1} {
		if _, err := ParseHourly(append(bytes.Clone(good), 0)[:n]); err == nil {
			t.Errorf("%d bytes: accepted", n)
		}
	}
	if _, err := ParseHourly(append(bytes.Clone(good[:140]), make([]byte, MaxHours*64)...)); err == nil {
		t.Error("more hours than there may be: accepted")
	}
	late := bytes.Clone(good)
	copy(late[2:6], []byte{255, 255, 255, 252})
	if _, err := ParseHourly(late); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("expiries that overflow: %v", err)
	}
	for at := 6; at < len(good); at += 32 { // every part of every certificate
		bad := bytes.Clone(good)
		bad[at] ^= 1
		h, err := ParseHourly(bad)
		if err != nil {
			continue
		}
		if h.Verify(s.keys.Blinded, testNow) == nil {
			t.Errorf("byte %d changed: verifies", at)
		}
		if _, err := NewHourlyEncoder(s.keys, h, s.signing); err == nil {
			t.Errorf("byte %d changed: an encoder takes it", at)
		}
	}
	swapped := bytes.Clone(good)
	copy(swapped[140:], good[204:268])
	copy(swapped[204:], good[140:204])
	if h, err := ParseHourly(swapped); err != nil || h.Verify(s.keys.Blinded, testNow) == nil {
		t.Errorf("two hours swapped: verifies (%v)", err)
	}
	identity, _ := IdentityKeyFromSeed(make([]byte, 32))
	blinded, err := identity.Blind(s.keys.Period)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Expiries{
		{testNow, 0}, {testNow, -1}, {testNow, MaxHours + 1}, {time.Unix(-1, 0), 3}, {time.Unix((1<<32-2)*3600, 0), 3},
	} {
		if _, err := blinded.CertifyHours([32]byte{1}, e); err == nil {
			t.Errorf("%+v: certified", e)
		}
	}
}

// TestEncodeHourly: all descriptors of one moment have one certificate, that of the
// hour, and the points' expiry goes with it.
func TestEncodeHourly(t *testing.T) {
	s := newTestService(t, 1)
	e, err := NewHourlyEncoder(s.keys, s.hourly(t, 1, 50), s.signing)
	if err != nil {
		t.Fatal(err)
	}
	c := torContents(testPoints(t, 3, seeded(1)))
	for hour := range 49 {
		c.Made = testNow.Add(time.Duration(hour) * time.Hour)
		var cert Certificate
		for slot := range 3 {
			raw, err := e.Encode(c, uint64(hour), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			d, err := new(Decoder).Decode(raw, s.keys, nil, c.Made)
			if err != nil {
				t.Fatal(err)
			}
			if got := d.SigningCert.Expires(); !got.Equal(SigningCertExpiry(c.Made)) || slot > 0 && d.SigningCert != cert {
				t.Fatalf("made at %s: expires at %s", c.Made, got)
			}
			cert = d.SigningCert
			for _, p := range d.IntroductionPoints {
				if !p.Expires.Equal(PointExpiry(c.Made)) {
					t.Fatalf("made at %s: a point expires at %s", c.Made, p.Expires)
				}
			}
		}
	}
}

// FuzzParseHourly: what parses is written again as it was.
func FuzzParseHourly(f *testing.F) {
	s := newTestService(f, 1)
	f.Add(s.hourly(f, 1, 3).Bytes())
	f.Add(s.cert.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := ParseHourly(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(h.Bytes(), raw) {
			t.Fatal("other bytes")
		}
		c := h.At(h.Expires().Add(-CertLifetime))
		if again, err := ParseCertificate(c.Bytes()); err != nil || again != c || !c.Expires().Equal(h.Expires()) {
			t.Fatalf("%v: the last certificate is %x, which expires at %s", err, c.Bytes(), c.Expires())
		}
	})
}

// BenchmarkCertifyHours makes the certificates for a period of the public network, and
// BenchmarkVerifyHours verifies them.
func BenchmarkCertifyHours(b *testing.B) {
	key, p := identityFor(b), Period{Number: 20000, Length: 24 * time.Hour}
	for b.Loop() {
		blinded, err := key.Blind(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err = blinded.CertifyHours([32]byte{1}, SigningCertExpiries(testNow, testNow.Add(52*time.Hour))); err != nil {
			b.Fatal(err)
		}
		blinded.Wipe()
	}
}

func BenchmarkVerifyHours(b *testing.B) {
	s := newTestService(b, 1)
	h := s.hourly(b, 1, 53)
	for b.Loop() {
		if _, err := NewHourlyEncoder(s.keys, h, s.signing); err != nil {
			b.Fatal(err)
		}
	}
}

// TestForget: an encoder that forgot the certificates of hours that are over makes the
// same descriptors, takes less memory, and has its last certificate still.
func TestForget(t *testing.T) {
	const hours = 53
	s := newTestService(t, 1)
	all := s.hourly(t, 1, hours)
	e, err := NewHourlyEncoder(s.keys, all, s.signing)
	if err != nil {
		t.Fatal(err)
	}
	for hour := range hours {
		made := testNow.Add(time.Duration(hour) * time.Hour)
		left := e.Forget(made)
		if most := max(hours-hour+forgottenAtOnce, 2); left.Count() > most {
			t.Errorf("%d certificates are left after %d hours, want %d at most", left.Count(), hour, most)
		}
		if left.At(made) != all.At(made) || left.Expires() != all.Expires() {
			t.Errorf("after %d hours: another certificate than before", hour)
		}
		if err := left.Verify(s.keys.Blinded, made); err != nil {
			t.Errorf("after %d hours: %v", hour, err)
		}
	}
}
