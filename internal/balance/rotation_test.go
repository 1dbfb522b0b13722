package balance

import (
	"math"
	"testing"
	"time"

	"onionbalancer/testnet/sim"
)

// A month of 200 instances, of which 120 have a place at a time, and of 10,000 clients who
// stay an hour and visit every five minutes: every instance has its share, and rotation
// costs nobody a retry. Points never die. testnet/sim has a day of that without our loop.
//
// Refreshes come when they do, so a single day leaves some instances 10 to 20 % off; ten
// days 7 %, a month 5 %.
func TestMonthOfRotation(t *testing.T) {
	if !soaking() {
		t.Skip("takes minutes: make soak")
	}
	t.Parallel()
	instances := make([]sim.InstanceConfig, 200)
	for n := range instances {
		instances[n].PointLife = 1000 * time.Hour
	}
	cfg := sim.Config{Seed: 40, Relays: 400, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}
	onSceneOf(t, cfg, instances, func(t *testing.T, s *scene) {
		s.fetchEvery(100 * time.Minute)
		s.settle(10 * time.Minute)
		crowd := s.net.NewCrowd(s.custodian.Address(), sim.CrowdConfig{Clients: 10000})
		s.settle(30 * 24 * time.Hour)
		tally := crowd.Tally()
		mean := float64(tally.Visits) / float64(len(instances))
		off := 0.0
		for _, n := range tally.Answered {
			off = max(off, math.Abs(float64(n)-mean)/mean)
		}
		t.Logf("%d visits, %d lost, %d retries, the worst share is %.1f %% off; %d uploads",
			tally.Visits, tally.Lost, tally.Retries, 100*off, s.net.Tor().Counts().Posts)
		if len(tally.Answered) != len(instances) || off > 0.1 {
			t.Errorf("%d of %d instances answered, the worst is %.1f %% off its share", len(tally.Answered), len(instances), 100*off)
		}
		if tally.Lost > 0 || tally.Retries > tally.Visits/100 { // the next period's points are others
			t.Errorf("of %d visits %d are lost, %d points were tried in vain", tally.Visits, tally.Lost, tally.Retries)
		}
	})
}
