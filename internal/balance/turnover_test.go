package balance

import (
	"maps"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// newest returns the introduction points of the newest edition that a reader finds at
// any HSDir, and its revision counter.
func newest(found []*descriptor.Descriptor) (points map[[32]byte]bool, counter uint64) {
	for _, d := range found {
		if d == nil || d.RevisionCounter < counter {
			continue
		}
		if d.RevisionCounter > counter {
			points, counter = make(map[[32]byte]bool), d.RevisionCounter
		}
		for n := range d.IntroductionPoints {
			points[d.IntroductionPoints[n].AuthKey] = true
		}
	}
	return points, counter
}

// turnover is what became of a day of visits, and how often the published points changed.
type turnover struct {
	sim.Tally
	changes int
}

func (t turnover) met() float64 { return 1000 * float64(t.Retries) / float64(t.Visits) }

// turnOver has a strategy choose one of three points of each instance, and clients who
// keep their descriptor for six hours visit every half hour. They come at noon, when the
// descriptor that they get is twelve hours old: its points die in the evening.
func turnOver(t *testing.T, seed uint64, strategy selection.Strategy, instances int, lasts time.Duration) (got turnover) {
	// Clients ask one HSDir only, for the test to take less time: so it has one point of
	// each instance.
	one := map[string]int32{"hsdir_n_replicas": 1, "hsdir_spread_fetch": 1, "hsdir_spread_store": 2}
	cfg := sim.Config{Seed: seed, Relays: 120, Churn: 0.24, Params: one, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}
	onSceneOf(t, cfg, make([]sim.InstanceConfig, instances), func(t *testing.T, s *scene) {
		s.stop()
		s.custody = func(c *Config) {
			c.Strategy, c.Room, c.FetchEvery = strategy, selection.Room{Points: 20, PerInstance: 1}, 20*time.Minute
		}
		// The points of the first day were not made at midnight.
		noon := time.Now().Truncate(24 * time.Hour).Add(36 * time.Hour)
		time.Sleep(time.Until(noon) - 5*time.Minute)
		s.start()
		s.settle(10 * time.Minute)
		crowd := s.net.NewCrowd(s.custodian.Address(), sim.CrowdConfig{Clients: 300, Every: 30 * time.Minute, Stay: 6 * time.Hour})
		reader := s.net.NewReader(4 * time.Minute)
		var last map[[32]byte]bool
		for time.Since(noon) < lasts {
			points, _ := newest(reader.Read(s.custodian.Address()))
			if last != nil && !maps.Equal(points, last) {
				got.changes++
			}
			last = points
			s.settle(5 * time.Minute)
		}
		got.Tally = crowd.Tally()
	})
	return got
}

// Points that are fresh enough are met dead about as rarely as the freshest, and much
// more rarely than those that lived longest, and change more rarely than either.
//
// One day of one network tells little; make soak has days of five.
func TestTurnover(t *testing.T) {
	t.Parallel()
	instances, seeds, few, rare, still := 12, 1, 1.6, 0.75, 1.0
	if soaking() {
		instances, seeds, few, rare, still = 20, 5, 1.2, 0.5, 0.9
	}
	sum := func(strategy selection.Strategy) (met, changes float64) {
		for n := range seeds {
			got := turnOver(t, uint64(n+2), strategy, instances, 24*time.Hour)
			t.Logf("%s: %.0f dead points met per 1000 visits, %d changes, %d of %d visits lost",
				strategy.Name(), got.met(), got.changes, got.Lost, got.Visits)
			met, changes = met+got.met(), changes+float64(got.changes)
		}
		return met, changes
	}
	met, changes := sum(selection.Spread{})
	freshest, itsChanges := sum(selection.Freshest{})
	longest, _ := sum(selection.LongestLived{})
	if met == 0 || met > few*freshest || met > rare*longest {
		t.Errorf("%.0f dead points, %.0f with the freshest, %.0f with the longest-lived", met, freshest, longest)
	}
	if changes > still*itsChanges {
		t.Errorf("%.0f changes, %.0f with the freshest", changes, itsChanges)
	}
}
