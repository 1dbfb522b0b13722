package backend

import (
	"crypto/ed25519"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
)

var testNow = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

func TestState(t *testing.T) {
	for _, test := range []struct {
		what   string
		change func(b *Backend)
		want   status.State
	}{
		{"fine", func(*Backend) {}, status.StateOK},
		{"one fetch that nobody answered", func(b *Backend) { b.Finding, b.Failures = Unreachable, 1 }, status.StateOK},
		{"invalid after a good one", func(b *Backend) { b.Finding, b.Failures = Invalid, 1 }, status.StateOK},
		{"not found once", func(b *Backend) { b.Finding, b.Failures = NotFound, 1 }, status.StateOK},
		{"not found twice", func(b *Backend) { b.Finding, b.Failures = NotFound, 2 }, status.StateUnknown},
		{"not renewed", func(b *Backend) { b.Renewed = testNow.Add(-3 * time.Hour) }, status.StateSilent},
		{"renewed long before, and fetched soon after", func(b *Backend) {
			b.Renewed, b.Seen = testNow.Add(-3*time.Hour), testNow.Add(-2*time.Hour)
		}, status.StateOK},
		{"not seen for long", func(b *Backend) {
			b.Renewed, b.Seen = testNow.Add(-4*time.Hour), testNow.Add(-3*time.Hour)
		}, status.StateUnreachable},
		{"never asked", func(b *Backend) { *b = Backend{} }, status.StateStarting},
		{"never answered", func(b *Backend) { *b = Backend{Finding: Unreachable} }, status.StateUnreachable},
		{"never found", func(b *Backend) { *b = Backend{Finding: NotFound, Failures: 1} }, status.StateUnknown},
		{"only invalid ones", func(b *Backend) { *b = Backend{Finding: Invalid} }, status.StateInvalid},
	} {
		b := &Backend{Finding: Found, Descriptor: &descriptor.Descriptor{}, Renewed: testNow.Add(-time.Hour), Seen: testNow}
		test.change(b)
		if got := b.State(testNow); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

// madeAt is a descriptor that tor made at a time, by the clock of the instance.
func madeAt(t *testing.T, revision uint64, at time.Time) *descriptor.Descriptor {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	expires := at.Add(descriptor.CertLifetime + time.Hour - 1).Truncate(time.Hour)
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte{1}, [32]byte(key.Public().(ed25519.PublicKey)), expires,
		func(msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil })
	if err != nil {
		t.Fatal(err)
	}
	return &descriptor.Descriptor{RevisionCounter: revision, SigningCert: cert}
}

// see has b found with d at a time; nil is a fetch that nobody answered.
func (b *Backend) see(p descriptor.Period, d *descriptor.Descriptor, at time.Time) {
	if d == nil {
		return
	}
	if b.Descriptor == nil || b.Period != p || b.Descriptor.RevisionCounter != d.RevisionCounter {
		b.Renewed, b.Exact = b.renewed(p, d, time.Time{}, at)
	}
	b.Finding, b.Descriptor, b.Period, b.Seen = Found, d, p, at
}

func TestRenewed(t *testing.T) {
	one, two := descriptor.Period{Number: 1, Length: 24 * time.Hour}, descriptor.Period{Number: 2, Length: 24 * time.Hour}
	at := func(clock string) time.Time {
		d, err := time.Parse("15:04", clock)
		if err != nil {
			t.Fatal(err)
		}
		return testNow.Truncate(24 * time.Hour).Add(time.Duration(d.Hour())*time.Hour + time.Duration(d.Minute())*time.Minute)
	}
	type look struct {
		at      string
		period  descriptor.Period
		found   *descriptor.Descriptor
		renewed string
		exact   bool
	}
	for _, test := range []struct {
		what  string
		looks []look
	}{
		{"the first after a start", []look{
			{"09:40", one, madeAt(t, 5, at("07:20")), "08:00", false},
			{"09:42", one, madeAt(t, 5, at("07:20")), "08:00", false},
		}},
		{"made within the hour", []look{{"09:40", one, madeAt(t, 5, at("09:10")), "09:40", false}}},
		{"on the hour", []look{{"09:40", one, madeAt(t, 5, at("09:00")), "09:00", false}}},
		{"renewed while we look", []look{
			{"09:40", one, madeAt(t, 5, at("07:20")), "08:00", false},
			{"09:42", one, madeAt(t, 6, at("09:41")), "09:42", true},
			{"11:10", one, madeAt(t, 6, at("09:41")), "09:42", true},
		}},
		{"a new period", []look{
			{"09:40", one, madeAt(t, 5, at("09:10")), "09:40", false},
			{"12:03", two, madeAt(t, 1, at("10:20")), "11:00", false},
			{"12:05", two, madeAt(t, 2, at("12:04")), "12:05", true},
		}},
		{"renewed while we could not look", []look{
			{"07:20", one, madeAt(t, 5, at("07:20")), "07:20", false},
			{"07:22", one, nil, "07:20", false},
			{"11:30", one, madeAt(t, 6, at("08:20")), "09:00", false},
		}},
		{"renewed between looks that are far apart", []look{
			{"07:20", one, madeAt(t, 5, at("07:20")), "07:20", false},
			{"09:20", one, madeAt(t, 6, at("08:25")), "09:00", false},
		}},
		{"one fetch without an answer", []look{
			{"09:20", one, madeAt(t, 5, at("09:10")), "09:20", false},
			{"09:22", one, nil, "09:20", false},
			{"09:24", one, madeAt(t, 6, at("09:23")), "09:24", true},
		}},
		{"a clock ahead", []look{{"09:40", one, madeAt(t, 5, at("13:00")), "09:40", false}}},
	} {
		b := &Backend{}
		for _, look := range test.looks {
			b.see(look.period, look.found, at(look.at))
			if got, exact := b.Published(); !got.Equal(at(look.renewed)) || exact != look.exact {
				t.Errorf("%s, at %s: renewed at %s (exactly: %v), want %s (%v)", test.what, look.at, got.Format("15:04"), exact, look.renewed, look.exact)
			}
		}
	}
	behind := &Backend{}
	behind.see(one, madeAt(t, 5, testNow.Add(-5*time.Hour)), testNow)
	behind.Seen = testNow.Add(SilentAfter)
	if state := behind.State(testNow.Add(SilentAfter)); state != status.StateOK {
		t.Errorf("a clock that is five hours behind: %s", state)
	}
}

// The time in a revision counter is told without its key, to some minutes, and is
// not before the descriptor was made.
func TestCountedBy(t *testing.T) {
	start := testNow.Truncate(24 * time.Hour)
	for n := range byte(20) {
		seed := make([]byte, 32)
		seed[0] = n
		identity, err := descriptor.IdentityKeyFromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		blinded, err := identity.Blind(descriptor.Period{Number: 20000, Length: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		sequence := blinded.RevisionKey().Sequence(start)
		for hour := range 72 {
			made := start.Add(time.Duration(hour)*time.Hour + 17*time.Minute)
			counter, err := sequence.At(made)
			if err != nil {
				t.Fatal(err)
			}
			if late := countedBy(counter, start).Sub(made); late < -5*time.Minute || late > 30*time.Minute {
				t.Errorf("key %d: a counter of %s is dated %s too late", n, made.Format(time.DateTime), late)
			}
		}
	}
	if at := countedBy(1<<63, start); !at.IsZero() {
		t.Errorf("a counter beyond any period is dated %s", at)
	}
}
