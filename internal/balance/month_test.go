package balance

import (
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// A month of periods, shared random values, relays that come and go, and
// clients that keep the descriptor they have: no request is lost. Without make soak
// it is two days.
func TestMonth(t *testing.T) {
	t.Parallel()
	days := 2
	if soaking() {
		days = 30
	}
	for _, test := range []struct {
		what  string
		days  int
		delay time.Duration // of the consensus, for our tor
	}{
		{"a tor that fetches the consensus early", days, 3 * time.Minute},
		{"a tor that fetches it as clients do", min(days, 3), 0},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			// Fewer slots than on the public network, for the test to take less time.
			fewer := map[string]int32{"hsdir_spread_store": 2, "hsdir_spread_fetch": 2}
			cfg := sim.Config{Seed: 20, Relays: 120, Churn: 0.05, Params: fewer, Tor: sim.TorConfig{ConsensusDelay: test.delay}}
			onScene(t, cfg, func(t *testing.T, s *scene) {
				s.fetchEvery(time.Hour)
				s.settle(time.Minute)
				var clients []*sim.Client
				for range 6 {
					clients = append(clients, s.client())
				}
				requests, tries, lost := 0, 0, 0
				for range test.days * 24 * 3 {
					for _, c := range clients {
						r := c.Request()
						requests++
						tries += r.Tries
						if r.Err != nil {
							lost++
							t.Logf("%s: %v", time.Now().Format("2006-01-02 15:04"), r.Err)
						}
					}
					s.settle(20 * time.Minute)
				}
				counts := s.net.Tor().Counts()
				t.Logf("%d requests, %.3f tries each, %d lost; %d fetches, %d uploads of which %d refused, %d certificates, %d rounds",
					requests, float64(tries)/float64(requests), lost, counts.Fetches, counts.Posts, counts.Rejected,
					s.custodian.certified, s.service.Status().Rounds)
				if lost > 0 {
					t.Errorf("%d of %d requests lost", lost, requests)
				}
				if counts.Rejected > 0 {
					t.Errorf("%d uploads were refused", counts.Rejected)
				}
				// One certificate for each period, and one more at the start.
				if s.custodian.certified > test.days+3 {
					t.Errorf("%d certificates signed in a month", s.custodian.certified)
				}
				// The consensus of this hour may just have come, with HSDirs to upload to.
				s.until("the service is ok after a month", 10*time.Minute, func() bool {
					return s.service.Status().State == status.StateOK
				})
			})
		})
	}
}
