package balance

import (
	"maps"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// hourly is the consensus of an hour.
func hourly(n int) *hsdir.Consensus {
	at := testNow.Truncate(24 * time.Hour).Add(time.Duration(n) * time.Hour)
	return &hsdir.Consensus{ValidAfter: at, FreshUntil: at.Add(time.Hour), ValidUntil: at.Add(3 * time.Hour)}
}

// A service that is to look ordinary goes by consensuses as old as those of any tor,
// though ours has each at once; if ours has them late itself, the service does not wait.
func TestHearsay(t *testing.T) {
	var h hearsay
	start := hourly(0)
	h.take(start.ValidAfter.Add(50*time.Minute), start, [32]byte{1}) // of any age
	taken := 0
	for minute := range 24 * 60 {
		now := hourly(1).ValidAfter.Add(time.Duration(minute) * time.Minute)
		before := h.has
		newest := hourly(1 + minute/60)
		if minute%60 < 3 {
			newest = hourly(minute / 60)
		}
		c := h.take(now, newest, [32]byte{1})
		if c == before || c.ValidAfter.Equal(before.ValidAfter) {
			if at := h.next([32]byte{1}); !at.IsZero() && !at.After(now) {
				t.Fatalf("%s: due since %s", now, at)
			}
			continue
		}
		taken++
		if after := now.Sub(before.FreshUntil); after < 45*time.Minute || after > 112*time.Minute || c != newest {
			t.Errorf("taken %s after the one before was fresh", after)
		}
	}
	if taken < 24/2 || taken > 24*2/3 {
		t.Errorf("%d taken in a day", taken)
	}
	for n := 30; n < 33; n++ { // as late as any tor has them
		c := hourly(n)
		if got := h.take(c.ValidAfter.Add(40*time.Minute), c, [32]byte{1}); got != c {
			t.Errorf("a late consensus waits, for the one of %s", got.ValidAfter)
		}
	}
}

// Nobody who sees a descriptor can foretell when the next one comes.
func TestRefreshIsSecret(t *testing.T) {
	times := make(map[time.Duration]bool)
	for seed := range byte(10) {
		after := refreshAfter([32]byte{seed}, 5)
		if times[after] = true; after < refreshMin || after > refreshMax || after != refreshAfter([32]byte{seed}, 5) {
			t.Errorf("a refresh after %s", after)
		}
	}
	if len(times) < 10 {
		t.Errorf("%d times of 10 seeds", len(times))
	}
}

// A service that is to look ordinary from now on has a point of each instance in both
// descriptors, though both had all points.
func TestOrdinaryFromNowOn(t *testing.T) {
	var s State
	v := wideView(20, testMember("a", 1, 2, 3), testMember("b", 4, 5, 6), testMember("c", 7, 8, 9))
	s.carryOut(v)
	v.Now, v.Config.Ordinary, v.Config.Room = v.Now.Add(time.Second), true, selection.Room{Points: 3}
	p := s.carryOut(v)
	all := make(map[[32]byte]bool)
	for _, target := range p.Targets {
		owners := make(map[descriptor.Address]bool)
		held := target.places[0].holding
		for n, key := range held.keys() {
			all[key], owners[held.owners[n]] = true, true
		}
		if len(owners) != 3 {
			t.Errorf("the %s descriptor has points of %d instances, of %d in all", target.Role, len(owners), len(held.owners))
		}
	}
	if len(all) != 6 {
		t.Errorf("both have %d distinct points, want 6", len(all))
	}
}

// chosen are the points of both descriptors, by instance.
func (s *scene) chosen() map[[32]byte]string {
	s.service.mu.Lock()
	defer s.service.mu.Unlock()
	list := make(map[[32]byte]string)
	for _, c := range s.service.plan.Chosen {
		list[c.Point.AuthKey] = c.Instance
	}
	return list
}

// An ordinary service's points stay at noon, when its instances show clients others, and
// when balancer restarts after that. An instance that restarts takes its own along, those
// included that it did not show, and one that comes back changes nothing.
func TestOrdinaryKeepsPoints(t *testing.T) {
	t.Parallel()
	onSceneOf(t, sim.Config{Seed: 61}, make([]sim.InstanceConfig, 4), func(t *testing.T, s *scene) {
		s.stop()
		s.custody = func(c *Config) { c.Ordinary, c.Room.Points = true, 3 }
		s.start()
		s.startAt(35*time.Hour + 30*time.Minute)
		s.settle(20 * time.Minute)
		before := s.chosen()
		if len(before) != 6 {
			t.Fatalf("%d points in two descriptors of three", len(before))
		}
		s.settle(80 * time.Minute)
		if now := s.chosen(); !maps.Equal(now, before) {
			t.Errorf("after noon, the points are\n%x, want\n%x", now, before)
		}
		s.reach("after noon", 10)
		s.restart()
		s.settle(10 * time.Minute)
		if now := s.chosen(); !maps.Equal(now, before) {
			t.Errorf("after a restart, the points are\n%x, want\n%x", now, before)
		}
		s.instances[0].SetOnline(false) // less than two hours after noon
		s.settle(time.Minute)
		s.instances[0].SetOnline(true)
		s.settle(10 * time.Minute)
		now := s.chosen()
		for key, name := range before {
			if _, there := now[key]; there == (name == "web1") {
				t.Errorf("a point of %s is published is %t after web1 restarted", name, there)
			}
		}
		if len(now) != 6 {
			t.Errorf("%d points after web1 restarted", len(now))
		}
		s.settle(10 * time.Minute)
		if later := s.chosen(); !maps.Equal(later, now) {
			t.Error("the points changed again")
		}
		s.reach("after web1 restarted", 10)
	})
}
