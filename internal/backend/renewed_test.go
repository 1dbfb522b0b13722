package backend

import (
	"crypto/ed25519"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
)

var testNow = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

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

// find has a fetch at now find d for p.
func (b *Backend) find(p descriptor.Period, d *descriptor.Descriptor, runStart, now time.Time) {
	if b.Descriptor == nil || b.Period != p || b.Descriptor.RevisionCounter != d.RevisionCounter {
		b.Renewed, b.Exact = b.renewed(p, d, runStart, now)
	}
	b.Finding, b.Descriptor, b.Period, b.Seen = Found, d, p, now
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
		at       string
		period   descriptor.Period
		revision uint64
		made     string
		renewed  string
		exact    bool
	}
	for _, test := range []struct {
		what  string
		looks []look
	}{
		{"the first after a start", []look{{"09:40", one, 5, "07:20", "08:00", false}, {"09:42", one, 5, "07:20", "08:00", false}}},
		{"made within the hour", []look{{"09:40", one, 5, "09:10", "09:40", false}}},
		{"on the hour", []look{{"09:40", one, 5, "09:00", "09:00", false}}},
		{"renewed while we look", []look{
			{"09:40", one, 5, "07:20", "08:00", false}, {"09:42", one, 6, "09:41", "09:42", true}, {"11:10", one, 6, "09:41", "09:42", true},
		}},
		{"a new period", []look{
			{"09:40", one, 5, "09:10", "09:40", false}, {"12:03", two, 1, "10:20", "11:00", false}, {"12:05", two, 2, "12:04", "12:05", true},
		}},
		{"renewed between looks that are far apart", []look{{"07:20", one, 5, "07:20", "07:20", false}, {"09:20", one, 6, "08:25", "09:00", false}}},
		{"a clock ahead", []look{{"09:40", one, 5, "13:00", "09:40", false}}},
	} {
		b := &Backend{}
		for _, look := range test.looks {
			b.find(look.period, madeAt(t, look.revision, at(look.made)), time.Time{}, at(look.at))
			if got, exact := b.Published(); !got.Equal(at(look.renewed)) || exact != look.exact {
				t.Errorf("%s, at %s: renewed at %s (exactly: %v), want %s (%v)", test.what, look.at, got.Format("15:04"), exact, look.renewed, look.exact)
			}
		}
	}
	// A clock that is behind silences nobody.
	b := &Backend{}
	b.find(one, madeAt(t, 5, testNow.Add(-5*time.Hour)), testNow.Add(-9*time.Hour), testNow)
	b.find(one, b.Descriptor, testNow.Add(-9*time.Hour), testNow.Add(SilentAfter))
	if state := b.State(testNow.Add(SilentAfter)); state != status.StateOK {
		t.Errorf("a clock that is five hours behind: %s", state)
	}
}

// The revision counter tells when it was taken, to within minutes, and is believed
// where it lies between two fetches.
func TestCounted(t *testing.T) {
	seed := make([]byte, 32)
	identity, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	p := descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	blinded, err := identity.Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	start := testNow
	sequence := blinded.RevisionKey().Sequence(start)
	for after := time.Minute; after < 72*time.Hour; after += 17 * time.Minute {
		counter, err := sequence.At(start.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		if late := countedBy(counter, start).Sub(start.Add(after)); late < 0 || late > 30*time.Minute {
			t.Errorf("a counter taken after %v counts as taken %v later", after, late)
		}
	}
	counter, err := sequence.At(start.Add(10 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{Descriptor: madeAt(t, 1, start), Period: p, Seen: start.Add(9 * time.Hour)}
	b.find(p, madeAt(t, counter, start), start, start.Add(12*time.Hour))
	if since := b.Renewed.Sub(start.Add(10 * time.Hour)); since < 0 || since > 10*time.Minute {
		t.Errorf("renewed %v after it was", since)
	}
}

func TestState(t *testing.T) {
	d := &descriptor.Descriptor{}
	for _, test := range []struct {
		what string
		b    Backend
		want status.State
	}{
		{"fine", Backend{Descriptor: d, Finding: Found, Seen: testNow, Renewed: testNow}, status.StateOK},
		{"one fetch that nobody answered", Backend{Descriptor: d, Finding: Unreachable, Failures: 1, Seen: testNow, Renewed: testNow}, status.StateOK},
		{"invalid after a good one", Backend{Descriptor: d, Finding: Invalid, Failures: 9, Seen: testNow, Renewed: testNow}, status.StateOK},
		{"not renewed", Backend{Descriptor: d, Finding: Found, Seen: testNow, Renewed: testNow.Add(-3 * time.Hour)}, status.StateSilent},
		{"not renewed, as far as was seen two hours ago", Backend{Descriptor: d, Finding: Found, Seen: testNow.Add(-2 * time.Hour), Renewed: testNow.Add(-3 * time.Hour)}, status.StateOK},
		{"not found for long", Backend{Descriptor: d, Finding: Unreachable, Seen: testNow.Add(-3 * time.Hour), Renewed: testNow.Add(-3 * time.Hour)}, status.StateUnreachable},
		{"gone from the HSDirs", Backend{Descriptor: d, Finding: NotFound, Failures: 2, Seen: testNow, Renewed: testNow}, status.StateUnknown},
		{"gone, as one fetch says", Backend{Descriptor: d, Finding: NotFound, Failures: 1, Seen: testNow, Renewed: testNow}, status.StateOK},
		{"never there", Backend{Finding: NotFound, Failures: 1}, status.StateUnknown},
		{"never asked", Backend{}, status.StateStarting},
		{"never answered", Backend{Finding: Unreachable}, status.StateUnreachable},
		{"only invalid ones", Backend{Finding: Invalid}, status.StateInvalid},
	} {
		if got := test.b.State(testNow); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}
