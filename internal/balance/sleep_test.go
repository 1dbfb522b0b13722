package balance

import (
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// The machine slept: the wall clock is hours ahead, and timers know nothing of it.
// Everything is fetched soon, and nothing is published before that: then what HSDirs
// have dropped meanwhile is. No instance counts as dead for it.
func TestMachineSlept(t *testing.T) {
	const unseen = 5 * time.Hour
	onScene(t, sim.Config{Seed: 91}, func(t *testing.T, s *scene) {
		s.fetchEvery(20 * time.Minute)
		s.settle(30 * time.Minute)
		for _, slept := range []time.Duration{110 * time.Minute, 8 * time.Hour, unseen} {
			before := s.service.Status()
			for _, r := range s.net.Relays() { // circuits may be dead, too
				r.SetFaults(sim.Faults{Silent: slept != unseen})
			}
			fetches := s.net.Tor().Counts().Fetches
			s.step(slept)
			s.settle(3 * lookLate)
			if n := s.net.Tor().Counts().Fetches - fetches; n < len(s.instances) {
				t.Errorf("%d fetches in %s after a sleep of %s", n, 3*lookLate, slept)
			}
			got := before
			if slept != unseen { // else a failure, or the question for the status, wakes the service
				got = s.service.Status()
			}
			for n, i := range got.Instances {
				if i.State != status.StateOK {
					t.Errorf("after a sleep of %s, instance %d is %s", slept, n, i.State)
				}
			}
			if slept < 2*time.Hour && !got.Descriptors[0].Built.Equal(before.Descriptors[0].Built) {
				t.Errorf("a descriptor was made before anything was fetched")
			}
			for _, r := range s.net.Relays() {
				r.SetFaults(sim.Faults{})
			}
			s.settle(6 * time.Minute)
			got = s.service.Status()
			for n, d := range got.Descriptors {
				if d.Revision <= before.Descriptors[n].Revision || d.Confirmed != len(d.Slots) || len(got.Instances) != 3 || got.Instances[2].Published == 0 {
					t.Errorf("not published after a sleep of %s: %s, %q, %d confirmed", slept, d.Reason, got.Warnings, d.Confirmed)
				}
			}
			s.reach("after the sleep", 10)
		}
	})
}

// A sleep without a consensus is no reason for haste. (A loop that never waits would
// keep the time of this test from passing.)
func TestMachineSleptWithoutConsensus(t *testing.T) {
	onScene(t, sim.Config{Seed: 93}, func(t *testing.T, s *scene) {
		s.stop()
		s.net.Tor().LoseConsensus()
		s.start()
		s.settle(time.Minute)
		s.step(5 * time.Hour)
		s.settle(10 * time.Minute)
		s.net.Tor().RegainConsensus()
		s.settle(time.Minute)
		s.reach("with a consensus", 5)
	})
}

// The clock of these tests is as package time's.
func TestBothClocks(t *testing.T) {
	at := time.Date(2026, 11, 20, 9, 0, 0, 7, time.UTC)
	a, b := bothClocks(at, at), bothClocks(at.Add(5*time.Hour), at.Add(time.Minute))
	if !a.Round(0).Equal(at) || b.Sub(a) != time.Minute || b.Round(0).Sub(a.Round(0)) != 5*time.Hour {
		t.Errorf("%s and %s", a, b)
	}
}

// lookLate is how soon a sleep is noticed, and what happened meanwhile is asked for.
const lookLate = 30 * time.Second

// The wall clock is set back or ahead, and the monotonic one is steady: instances are
// fetched as ever, and what they change is published.
func TestWallClockIsSet(t *testing.T) {
	onScene(t, sim.Config{Seed: 92, Relays: 30}, func(t *testing.T, s *scene) {
		s.settle(10 * time.Minute)
		for _, by := range []time.Duration{-3 * time.Hour, 5 * time.Hour, -2 * time.Hour} {
			s.step(by)
			s.instances[0].ReplacePoints()
			s.settle(3 * time.Minute)
			answers := s.reach("after a step of "+by.String(), 30)
			if answers[s.instances[0]] == 0 {
				t.Errorf("after a step of %s the new points of an instance are not published", by)
			}
			before := s.net.Tor().Counts().Posts
			s.settle(10 * time.Minute)
			if n := s.net.Tor().Counts().Posts - before; n > 16 {
				t.Errorf("after a step of %s: %d uploads though nothing changed", by, n)
			}
			for n, i := range s.service.Status().Instances {
				if i.State != status.StateOK {
					t.Errorf("after a step of %s, instance %d is %s", by, n, i.State)
				}
			}
		}
		if counts := s.net.Tor().Counts(); counts.Rejected > 0 {
			t.Errorf("%d uploads were refused", counts.Rejected)
		}
	})
}
