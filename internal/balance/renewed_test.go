package balance

import (
	"crypto/ed25519"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// madeAt is the answer with a descriptor for p that tor made at a time, by the
// clock of the instance.
func madeAt(t *testing.T, p descriptor.Period, revision uint64, at time.Time) Answer {
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
	return Answer{Finding: Found, Keys: descriptor.PeriodKeys{Period: p}, Descriptor: &descriptor.Descriptor{RevisionCounter: revision, SigningCert: cert}}
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
		answer  Answer
		renewed string
		exact   bool
	}
	for _, test := range []struct {
		what  string
		looks []look
	}{
		{"the first after a start", []look{
			{at: "09:40", answer: madeAt(t, one, 5, at("07:20")), renewed: "08:00"},
			{at: "09:42", answer: madeAt(t, one, 5, at("07:20")), renewed: "08:00"},
		}},
		{"made within the hour", []look{{at: "09:40", answer: madeAt(t, one, 5, at("09:10")), renewed: "09:40"}}},
		{"on the hour", []look{{at: "09:40", answer: madeAt(t, one, 5, at("09:00")), renewed: "09:00"}}},
		{"renewed while we look", []look{
			{at: "09:40", answer: madeAt(t, one, 5, at("07:20")), renewed: "08:00"},
			{at: "09:42", answer: madeAt(t, one, 6, at("09:41")), renewed: "09:42", exact: true},
			{at: "11:10", answer: madeAt(t, one, 6, at("09:41")), renewed: "09:42", exact: true},
		}},
		{"a new period", []look{
			{at: "09:40", answer: madeAt(t, one, 5, at("09:10")), renewed: "09:40"},
			{at: "12:03", answer: madeAt(t, two, 1, at("10:20")), renewed: "11:00"},
			{at: "12:05", answer: madeAt(t, two, 2, at("12:04")), renewed: "12:05", exact: true},
		}},
		{"renewed while we could not look", []look{
			{at: "07:20", answer: madeAt(t, one, 5, at("07:20")), renewed: "07:20"},
			{at: "07:22", answer: Answer{Finding: Unreachable}, renewed: "07:20"},
			{at: "11:30", answer: madeAt(t, one, 6, at("08:20")), renewed: "09:00"},
		}},
		{"renewed between looks that are far apart", []look{
			{at: "07:20", answer: madeAt(t, one, 5, at("07:20")), renewed: "07:20"},
			{at: "09:20", answer: madeAt(t, one, 6, at("08:25")), renewed: "09:00"},
		}},
		{"one look in vain", []look{
			{at: "09:20", answer: madeAt(t, one, 5, at("09:10")), renewed: "09:20"},
			{at: "09:22", answer: Answer{Finding: Unreachable}, renewed: "09:20"},
			{at: "09:24", answer: madeAt(t, one, 6, at("09:23")), renewed: "09:24", exact: true},
		}},
		{"a clock ahead", []look{{at: "09:40", answer: madeAt(t, one, 5, at("13:00")), renewed: "09:40"}}},
	} {
		i := &instance{changes: newChanges()}
		for _, look := range test.looks {
			i.accept(look.answer, at(look.at))
			if got, exact := i.published(); !got.Equal(at(look.renewed)) || exact != look.exact {
				t.Errorf("%s, at %s: renewed at %s (exactly: %v), want %s (%v)", test.what, look.at, got.Format("15:04"), exact, look.renewed, look.exact)
			}
		}
	}
}

// A dead instance is not renewed by a change of the period, at which another of
// its descriptors is looked for, and a clock that is behind silences nobody.
func TestRenewedOverPeriods(t *testing.T) {
	onScene(t, sim.Config{Seed: 7, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}, func(t *testing.T, s *scene) {
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		time.Sleep(time.Until(noon.Add(-50 * time.Minute)))
		before := s.service.epoch.period
		s.instances[0].SetOnline(false)
		time.Sleep(time.Until(noon.Add(20 * time.Minute)))
		s.settle(0)
		got := s.service.Status()
		if s.service.epoch.period == before {
			t.Fatalf("the period is %v before and after: the test shows nothing", before)
		}
		i := got.Instances[0]
		if i.State != status.StateOK || i.Renewed.After(noon) || !i.RenewedBefore {
			t.Errorf("an instance that died before noon: %s, renewed %s (only a bound: %v)", i.State, i.Renewed, i.RenewedBefore)
		}
	})
	behind := &instance{changes: newChanges()}
	behind.accept(madeAt(t, descriptor.Period{Number: 1}, 5, testNow.Add(-5*time.Hour)), testNow)
	if state := behind.state(testNow.Add(silentAfter)); state != status.StateOK {
		t.Errorf("a clock that is five hours behind: %s", state)
	}
}
