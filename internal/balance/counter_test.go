package balance

import (
	"testing"
	"time"

	"onionbalancer/hsdir"
	"onionbalancer/testnet/sim"
)

// held returns what the HSDirs of the service's consensus hold of it: for each of its
// two descriptors, how many of them have which revision counter.
func (s *scene) held() (list []map[uint64]int) {
	for _, target := range s.service.Plan().Targets {
		held := map[uint64]int{}
		for _, slot := range target.Slots {
			r := s.net.Relay(hsdir.Relay{Fingerprint: slot.HSDir}.Hex())
			if r == nil || !r.Running() {
				continue
			}
			if body, revision := r.Stored(target.Keys.Blinded); body != nil {
				held[revision]++
			}
		}
		list = append(list, held)
	}
	return list
}

// Whatever happens, all HSDirs of a descriptor come to hold one revision counter:
// a client that fetches again drops a lower one than it holds.
func TestOneCounterForAllSlots(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 61, Relays: 120, Churn: 0.15}, func(t *testing.T, s *scene) {
		s.fetchEvery(20 * time.Minute)
		s.settle(time.Minute)
		looks, hours := 0, 20
		if soaking() {
			hours = 60
		}
		for hour := range hours {
			relays := s.net.Relays()
			for n := range 4 {
				relays[(hour*7+n*13)%len(relays)].SetFaults([]sim.Faults{{RejectUploads: true}, {Silent: true}}[n%2])
			}
			switch hour % 5 {
			case 1:
				s.instances[hour%3].ReplacePoints()
			case 2:
				s.restart()
				s.fetchEvery(20 * time.Minute)
			case 3:
				s.net.Tor().Restart(5*time.Minute, time.Minute)
			}
			s.settle(20 * time.Minute)
			for _, r := range relays {
				r.SetFaults(sim.Faults{})
			}
			s.settle(40 * time.Minute)
			for role, held := range s.held() {
				looks++
				if len(held) != 1 {
					t.Errorf("hour %d: descriptor %d has the revision counters %v", hour, role, held)
				}
			}
		}
		if looks < 3*hours/2 {
			t.Errorf("%d looks: the test shows nothing", looks)
		}
	})
}
