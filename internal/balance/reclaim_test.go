package balance

import (
	"testing"
	"time"

	"onionbalancer/testnet/sim"
)

// An active machine publishes above another that has published, within minutes, and not
// above what no machine's clock accounts for.
func TestReclaim(t *testing.T) {
	for _, test := range []struct {
		what    string
		reclaim bool
		ahead   time.Duration
		want    bool
	}{
		{"active", true, 0, true}, {"active, with a clock behind", true, time.Hour, true}, {"alone", false, 0, false}, {"far ahead", true, 8 * time.Hour, false},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			onScene(t, sim.Config{Seed: 43}, func(t *testing.T, s *scene) {
				cfg := s.config()
				cfg.Reclaim = test.reclaim
				s.service.Reconfigure(cfg)
				s.settle(20 * time.Minute) // so that its counters are not ahead of another's
				other := s.net.AddInstance(sim.InstanceConfig{Key: s.custodian.key, ClockOffset: test.ahead})
				var theirs uint64
				for range 300 { // it may be outdone any time from then on
					s.settle(100 * time.Millisecond)
					if got := s.current(); !s.service.keys.Ours(got.SigningCert.Key()) {
						theirs = got.RevisionCounter
						break
					}
				}
				if theirs == 0 {
					t.Fatal("the other is not seen")
				}
				posts := s.net.Tor().Counts().Posts
				for range 6 {
					s.settle(time.Minute)
				}
				got := s.current()
				if ours := got.RevisionCounter > theirs && s.service.keys.Ours(got.SigningCert.Key()); ours != test.want {
					t.Errorf("published by us: %t, counter %d after %d", ours, got.RevisionCounter, theirs)
				}
				other.SetOnline(false)
				if n := s.net.Tor().Counts().Posts - posts; n > 16 {
					t.Errorf("%d uploads", n)
				}
			})
		})
	}
}
