package sim

import (
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// crowded has 120 instances stand in one slot each, and clients visit them.
func crowded(t *testing.T, clients int, lasts time.Duration) (tally Tally) {
	t.Helper()
	onBench(t, 120, Config{Seed: 7, Relays: 400}, func(t *testing.T, b *bench) {
		slots := make([][]descriptor.IntroductionPoint, len(b.slots))
		for slot := range slots {
			taken := make(map[descriptor.Fingerprint]bool)
			for k := range 20 {
				free := slices.DeleteFunc(b.live(20*slot+k), func(p descriptor.IntroductionPoint) bool { return taken[p.Relay()] })
				slots[slot] = append(slots[slot], free[0])
				taken[free[0].Relay()] = true
			}
		}
		var crowd *Crowd
		for hour := range uint64(lasts / time.Hour) {
			for slot, points := range slots {
				b.put(slot, hour, points...)
			}
			if crowd == nil {
				crowd = b.net.NewCrowd(b.key.Address(), CrowdConfig{Clients: clients})
			}
			time.Sleep(time.Hour)
		}
		tally = crowd.Tally()
	})
	return tally
}

// A crowd visits as often as it should, and all instances alike.
func TestCrowd(t *testing.T) {
	tally := crowded(t, 500, 2*time.Hour)
	if want := 500 * 24; tally.Visits < want || tally.Visits > want+50 || tally.Lost > 0 || tally.Retries > 0 {
		t.Errorf("%+v", tally)
	}
	if tally.Fetched < 1350 || tally.Fetched > 1550 { // each, and two that come after it
		t.Errorf("%d descriptors fetched", tally.Fetched)
	}
	even(t, "instances", tally.Answered, 120)
}

// BenchmarkCrowd is the cost of eight hours of 10,000 clients who visit every five minutes:
// nearly a million visits.
func BenchmarkCrowd(b *testing.B) {
	day := testing.InternalTest{Name: "day", F: func(t *testing.T) {
		if tally := crowded(t, 10000, 8*time.Hour); tally.Lost > 0 {
			t.Errorf("%d visits are lost", tally.Lost)
		}
	}}
	for b.Loop() {
		if !testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{day}) {
			b.Fatal("the day failed")
		}
	}
}
