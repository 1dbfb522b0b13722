package balance

import (
	"slices"
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// A second publisher under the same key, whose uploads HSDirs take like ours, is
// found by looking at what clients get.
func TestSomebodyElsePublishes(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 41}, func(t *testing.T, s *scene) {
		s.settle(5 * time.Minute)
		if got := s.want("alone", status.StateOK); got.ReadBack.IsZero() {
			t.Fatal("what is published was not read back")
		}
		s.fetchEvery(20 * time.Minute)
		thief := s.net.AddInstance(sim.InstanceConfig{Key: s.custodian.key})
		// Clients get the later of the two, so not every look finds the thief.
		found := false
		for end := time.Now().Add(12 * time.Hour); !found && time.Now().Before(end); {
			s.settle(time.Minute)
			found = warned(s.service.Status(), "somebody else publishes under this address")
		}
		if !found {
			t.Fatal("the thief was not found in twelve hours")
		}
		s.want("with a thief", status.StateDegraded)
		thief.SetOnline(false)
		s.settle(4 * time.Hour) // until we have published again, and looked at each HSDir
		if got := s.want("without the thief", status.StateOK); warned(got, "somebody else") {
			t.Errorf("warnings: %q", got.Warnings)
		}
	})
}

// What HSDirs confirmed and lost is missed, and published again; and not over and
// over where they go on losing it.
func TestConfirmedAndLost(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 42, Relays: 200}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		s.want("at first", status.StateOK)
		first, second, err := s.net.Responsible(s.custodian.Address())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range append(first, second...) {
			r.Wipe()
		}
		var reasons []string
		for range 70 {
			s.settle(time.Minute)
			for _, d := range s.service.Status().Descriptors {
				if d.Current && d.Confirmed == len(d.Slots) {
					reasons = append(reasons, d.Reason)
				}
			}
		}
		if !slices.Contains(reasons, string(ReasonLost)) {
			t.Errorf("the descriptor that clients ask for was not published again, but for the reasons %q", slices.Compact(reasons))
		}
		s.reach("after a loss", 20)
		for _, r := range append(first, second...) {
			r.SetFaults(sim.Faults{Amnesia: true})
		}
		before := s.net.Tor().Counts().Posts
		s.fetchEvery(20 * time.Minute)
		s.settle(3 * time.Hour)
		if got := s.want("with HSDirs that lose all", status.StateDegraded); !warned(got, "clients do not find the descriptor") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		if posts := s.net.Tor().Counts().Posts - before; posts > 16*12 {
			t.Errorf("%d uploads in three hours", posts)
		}
	})
}

// An HSDir that takes uploads and hands out what it had before is no cause for
// alarm while others do better.
func TestOneStaleHSDir(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 43}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		first, _, err := s.net.Responsible(s.custodian.Address())
		if err != nil {
			t.Fatal(err)
		}
		first[0].SetFaults(sim.Faults{Replay: true})
		s.fetchEvery(20 * time.Minute)
		s.settle(6 * time.Hour)
		got := s.want("with one HSDir that replays", status.StateOK)
		if !warned(got, "HSDir "+first[0].Fingerprint()+" hands out an older descriptor") {
			t.Errorf("warnings: %q", got.Warnings)
		}
	})
}

// Each HSDir that clients ask is asked in turn, and what a single one does wrong is
// shown, whatever it is, and changes nothing; nor are the others asked again and
// again for it.
func TestEachHSDirIsReadBack(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 48, Relays: 200}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		first, _, err := s.net.Responsible(s.custodian.Address())
		if err != nil {
			t.Fatal(err)
		}
		current := func() (d status.Descriptor) {
			for _, d = range s.service.Status().Descriptors {
				if d.Current {
					return d
				}
			}
			t.Fatal("no descriptor is current")
			return d
		}
		for _, fault := range []struct {
			faults sim.Faults
			holds  status.Holds
		}{
			{sim.Faults{Amnesia: true}, status.HoldsNone},
			{sim.Faults{Forge: sim.Tampered}, status.HoldsInvalid},
			{sim.Faults{Forge: s.net.Foreign()}, status.HoldsInvalid},
			{sim.Faults{Silent: true}, ""},
			{sim.Faults{}, status.HoldsPublished},
		} {
			liar := first[0] // which clients ask
			liar.SetFaults(fault.faults)
			s.fetchEvery(time.Hour)
			s.settle(2 * time.Hour)
			began, fetches := time.Now(), s.net.Tor().Counts().Fetches
			s.settle(2 * time.Hour)
			// Two fetches of each instance in an hour, and the rest is ours.
			if n := s.net.Tor().Counts().Fetches - fetches - 2*2*3*2; n > 2*6+2*5 {
				t.Errorf("%s: %d fetches to read back, in two hours", fault.holds, n)
			}
			asked := 0
			for _, slot := range current().Slots {
				holds := status.HoldsPublished
				if slot.HSDir == liar.Fingerprint() {
					holds = fault.holds
				}
				if slot.Reserve {
					holds = ""
				} else {
					asked++
				}
				if holds != "" && (slot.Holds != holds || slot.ReadBack.Before(began)) {
					t.Errorf("%s at HSDir %s: holds %q, read back %s", fault.holds, slot.HSDir[:4], slot.Holds, time.Since(slot.ReadBack))
				}
				if slot.Reserve && slot.Holds != "" {
					t.Errorf("one that clients do not ask holds %q", slot.Holds)
				}
			}
			if asked != 6 {
				t.Errorf("%d HSDirs are asked by clients", asked)
			}
			if reason := current().Reason; reason == string(ReasonLost) {
				t.Errorf("%s: the descriptor was published again for one HSDir", fault.holds)
			}
			wrong := fault.holds == status.HoldsNone || fault.holds == status.HoldsInvalid
			if got := s.want(string(fault.holds), status.StateOK, status.StateDegraded); wrong != warned(got, "HSDir "+liar.Fingerprint()) && fault.holds != "" {
				t.Errorf("%s: warnings %q", fault.holds, got.Warnings)
			}
		}
	})
}

// Without a consensus a service waits for one, and does nothing all the time.
func TestCalmWithoutConsensus(t *testing.T) {
	onScene(t, sim.Config{Seed: 44}, func(t *testing.T, s *scene) {
		s.stop()
		s.net.Tor().LoseConsensus()
		s.start()
		s.settle(10 * time.Minute)
		if got := s.service.Status(); got.Rounds > 200 {
			t.Errorf("%d rounds in ten minutes", got.Rounds)
		}
		s.net.Tor().RegainConsensus()
		s.settle(time.Minute)
		s.want("with a consensus", status.StateOK)
	})
}

// What is published late is read back soon all the same.
func TestReadBackAfterLateStart(t *testing.T) {
	onScene(t, sim.Config{Seed: 47}, func(t *testing.T, s *scene) {
		s.custodian.fail(errTokenGone)
		s.restart()
		s.fetchEvery(20 * time.Minute)
		s.settle(3 * time.Minute)
		s.custodian.fail(nil)
		s.settle(8 * time.Minute)
		if got := s.service.Status(); got.ReadBack.IsZero() {
			t.Errorf("not read back, %s: %+v", got.State, got.Descriptors)
		}
	})
}
