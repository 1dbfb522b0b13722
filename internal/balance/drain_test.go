package balance

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// say changes the operator's word about one of the instances.
func (s *scene) say(n int, change func(*state.Word)) {
	s.t.Helper()
	if _, err := s.env.Backends.SetWord(s.t.Context(), s.instances[n].Address(), change); err != nil {
		s.t.Error(err)
	}
}

func (s *scene) admin(n int, a health.Admin) {
	s.t.Helper()
	s.say(n, func(w *state.Word) { w.Admin = a })
}

func weight(t *testing.T, text string) health.Weight {
	t.Helper()
	w, err := health.ParseWeight(text)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A drained instance leaves every slot of both descriptors at once, stays out over a
// restart, and comes back with "ready".
func TestDrain(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 61}, func(t *testing.T, s *scene) {
		s.startAt(15 * time.Hour)
		s.settle(2 * time.Minute)
		if n := s.reach("before", 60)[s.instances[0]]; n == 0 {
			t.Fatal("nobody reaches the instance before it is drained")
		}
		s.admin(0, health.Drain)
		s.settle(5 * time.Second)
		check := func(when string) *status.Drain {
			t.Helper()
			got := s.want(when, status.StateOK)
			i := got.Instances[0]
			if i.Admin != "drain" || i.Published != 0 || i.Share != 0 || i.Drain == nil || i.Drain.Pending != 0 || i.Drain.Left.IsZero() || i.Drain.Safe || i.Drain.Stays {
				t.Fatalf("%s: %+v, %+v", when, i, i.Drain)
			}
			for _, e := range s.service.state.Editions {
				for _, at := range e.slots {
					if len(at.holding.IntroductionPoints) != 6 || at.holding.owns(s.instances[0].Address()) {
						t.Errorf("%s: %d points of %v in a slot", when, len(at.holding.IntroductionPoints), at.holding.owners)
					}
				}
			}
			if n := s.reach(when, 60)[s.instances[0]]; n != 0 {
				t.Errorf("%s: %d of 60 new clients reach it", when, n)
			}
			return i.Drain
		}
		before := check("drained")
		noon := time.Now().Truncate(24 * time.Hour).Add(36 * time.Hour)
		if want := noon.Add(2 * time.Hour); !before.SafeAt.Equal(want) {
			t.Errorf("safe to stop at %s, want %s", before.SafeAt, want)
		}
		s.restart()
		s.settle(3 * time.Minute)
		if after := check("after a restart"); !after.Left.Equal(before.Left) || !after.SafeAt.Equal(before.SafeAt) {
			t.Errorf("after a restart: %+v, before %+v", after, before)
		}
		s.admin(0, "")
		s.settle(5 * time.Second)
		if n := s.reach("ready", 60)[s.instances[0]]; n == 0 {
			t.Error("nobody reaches the instance after it is ready")
		}
		if i := s.want("ready", status.StateOK).Instances[0]; i.Admin != "ready" || i.Drain != nil || i.Said != nil || i.Published != 3 {
			t.Errorf("ready: %+v", i)
		}
	})
}

// When a drained instance is said to be safe to stop, no client that has an older
// descriptor comes to it any more, however late it has each consensus; shortly before,
// some would.
func TestSafeToStop(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 62}, func(t *testing.T, s *scene) {
		s.startAt(9 * time.Hour)
		s.settle(2 * time.Minute)
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		var clients []*sim.Client
		for n := range 200 {
			c := s.net.NewClient(s.custodian.Address(), sim.ClientConfig{ConsensusDelay: time.Duration(n) * 110 * time.Minute / 200})
			if r := c.Request(); r.Err != nil {
				t.Fatal(r.Err)
			}
			clients = append(clients, c)
		}
		s.admin(0, health.Maint)
		time.Sleep(time.Until(noon.Add(30 * time.Minute)))
		s.settle(0)
		come := func() (n int) {
			for _, c := range clients {
				if r := c.Request(); r.Err == nil && r.Instance == s.instances[0] {
					n++
				}
			}
			return n
		}
		if d := s.service.Status().Instances[0].Drain; d == nil || d.Safe || !d.SafeAt.Equal(noon.Add(2*time.Hour)) {
			t.Fatalf("half an hour after noon: %+v", d)
		}
		if come() == 0 {
			t.Error("half an hour after noon nobody comes with an older descriptor: the test shows nothing")
		}
		time.Sleep(time.Until(noon.Add(2*time.Hour + time.Second)))
		s.settle(0)
		if d := s.service.Status().Instances[0].Drain; !d.Safe {
			t.Errorf("two hours after noon: %+v", d)
		}
		if n := come(); n != 0 {
			t.Errorf("%d of %d clients come although it is safe to stop", n, len(clients))
		}
	})
}

// While an HSDir has not confirmed, it may have the old descriptor: the instance is not
// gone from it.
func TestDrainWaitsForHSDirs(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 63}, func(t *testing.T, s *scene) {
		s.startAt(15 * time.Hour)
		s.settle(2 * time.Minute)
		var asked *slot
		for _, e := range s.service.state.Editions {
			for n := range e.slots {
				if !e.slots[n].Reserve {
					asked = &e.slots[n]
				}
			}
		}
		dead := s.net.Relay(hsdir.Relay{Fingerprint: asked.HSDir}.Hex())
		dead.SetFaults(sim.Faults{Silent: true})
		s.admin(0, health.Drain)
		s.settle(time.Minute)
		d := s.service.Status().Instances[0].Drain
		if d == nil || d.Pending == 0 || !d.Left.IsZero() || !d.SafeAt.IsZero() || d.Safe {
			t.Fatalf("one HSDir is dead: %+v", d)
		}
		dead.SetFaults(sim.Faults{})
		s.settle(30 * time.Minute)
		if d := s.service.Status().Instances[0].Drain; d.Pending != 0 || d.Left.IsZero() {
			t.Errorf("it is back: %+v", d)
		}
	})
}

// The last instance that is taken out stays published: an empty descriptor never is.
func TestAllDrained(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 64}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		s.admin(0, health.Drain)
		s.admin(1, health.Maint)
		s.settle(time.Minute)
		s.say(2, func(w *state.Word) { w.Weight = weight(t, "0") })
		s.settle(time.Minute)
		got := s.want("all taken out", status.StateFailed)
		if d := got.Instances[2].Drain; d == nil || !d.Stays || !d.Left.IsZero() || d.Safe || got.Instances[0].Drain.Stays || got.Instances[2].Published == 0 {
			t.Errorf("the last one: %+v", d)
		}
		if n := s.reach("all taken out", 20)[s.instances[2]]; n != 20 {
			t.Errorf("%d of 20 reach the last one", n)
		}
		s.admin(0, "")
		s.settle(time.Minute)
		if n := s.reach("one is ready", 20)[s.instances[0]]; n != 20 {
			t.Errorf("%d of 20 reach the one that is ready", n)
		}
	})
}

// The strategy spread heeds weights that are given at run time.
func TestWeightAtRunTime(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 65}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		s.say(0, func(w *state.Word) { w.Weight = weight(t, "50%") })
		s.settle(time.Minute)
		got := s.want("half the weight", status.StateOK)
		if i := got.Instances[0]; i.Share < 0.17 || i.Share > 0.23 || i.Weight != 0.5 || i.Said.Weight != "50%" {
			t.Errorf("half the weight: %+v", i)
		}
	})
}

// Instances that were taken out are not even used while nothing else is ok.
func TestTakenOutIsNoFallback(t *testing.T) {
	drained, silent, zero := testMember("d", 1), testMember("s", 2), testMember("z", 3)
	drained.Word.Admin = health.Drain
	silent.Seen = testNow
	silent.Renewed = testNow.Add(-4 * time.Hour)
	zero.Word.Weight = weight(t, "0%")
	p := gather(testView(8, drained, silent, zero))
	if names(p.candidates) != "s2" || !p.fallback || len(p.out) != 2 || p.out["d"] == "" || p.out["z"] == "" {
		t.Errorf("%q, fallback %v, out %v", names(p.candidates), p.fallback, p.out)
	}
	// Nobody's word is heeded when nobody is left: the last good contents stay.
	before := testView(8, testMember("d", 1))
	v := testView(8, drained)
	if plan := makePlan(v, made(before)); plan.Contents == nil || len(plan.Contents.IntroductionPoints) != 1 || len(plan.Chosen) != 0 {
		t.Errorf("all taken out: %+v", plan.Contents)
	}
}

func TestSafeAt(t *testing.T) {
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	at := func(hour, minute int) time.Time {
		return day.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
	}
	for _, test := range []struct {
		left, want time.Time
	}{
		{at(0, 0), at(14, 0)},
		{at(11, 59), at(14, 0)},
		{at(12, 0), at(38, 0)}, // clients may have fetched for the new period by then
		{at(13, 0), at(38, 0)},
		{at(23, 0), at(38, 0)},
	} {
		if got := SafeAt(test.left, descriptor.DefaultPeriodLength, 12*time.Hour, 2*time.Hour); !got.Equal(test.want) {
			t.Errorf("left at %s: %s, want %s", test.left, got, test.want)
		}
	}
	// A private network of short periods.
	if got := SafeAt(at(1, 3), 4*time.Minute, 2*time.Minute, 40*time.Second); !got.Equal(at(1, 6).Add(40 * time.Second)) {
		t.Errorf("short periods: %s", got)
	}
}
