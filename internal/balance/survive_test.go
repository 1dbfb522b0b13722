package balance

import (
	"errors"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

func TestPublishesAndSpreads(t *testing.T) {
	onScene(t, sim.Config{Seed: 1}, func(t *testing.T, s *scene) {
		s.settle(10 * time.Second)
		got := s.want("after 10 s", status.StateOK)
		if len(got.Descriptors) != 2 || got.Descriptors[0].Confirmed != 8 || got.Descriptors[1].Confirmed != 8 {
			t.Errorf("descriptors: %+v", got.Descriptors)
		}
		answers := s.reach("at first", 300)
		for n, i := range s.instances {
			if share := float64(answers[i]) / 300; share < 0.2 || share > 0.47 {
				t.Errorf("instance %d answered %.0f %% of the requests", n, 100*share)
			}
		}
		// Nothing changes, so nothing is published but what is due: each of two
		// descriptors every 60 to 120 minutes, and the instances' own.
		before := s.net.Tor().Counts()
		s.settle(50 * time.Minute)
		if posts := s.net.Tor().Counts().Posts - before.Posts; posts != 0 {
			t.Errorf("%d uploads though nothing changed", posts)
		}
	})
}

func TestTorDiesAndReturns(t *testing.T) {
	onScene(t, sim.Config{Seed: 2}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		s.net.Tor().Restart(10*time.Minute, time.Minute)
		s.settle(5 * time.Minute)
		s.reach("while tor is down", 20)
		s.instances[0].SetOnline(false)
		s.instances[1].ReplacePoints()
		s.settle(10 * time.Minute)
		got := s.want("when tor is back", status.StateOK, status.StateDegraded)
		if s.net.Tor().Counts().Connections < 2 {
			t.Fatal("the restart was not noticed: the test shows nothing")
		}
		if got.Instances[1].LastFetch.Before(time.Now().Add(-2 * time.Minute)) {
			t.Errorf("instances are not fetched since: %+v", got.Instances[1])
		}
		s.reach("when tor is back", 20)
	})
}

func TestControlConnectionDropsInMidReply(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"GETINFO dir/status-vote/current/consensus-microdesc", "GETINFO md/all", "GETCONF", "+HSPOST", "HSFETCH"} {
		onScene(t, sim.Config{Seed: 3}, func(t *testing.T, s *scene) {
			s.stop()
			s.net.Tor().CutReply(command, 10)
			s.start()
			s.settle(2 * time.Minute)
			s.want("after a reply to "+command+" was cut", status.StateOK)
			s.reach(command, 5)
		})
	}
}

func TestConsensusMissingAndStale(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 4}, func(t *testing.T, s *scene) {
		s.stop()
		s.net.Tor().LoseConsensus()
		s.start()
		s.settle(30 * time.Second)
		got := s.want("without a consensus", status.StateStarting)
		if len(got.Warnings) != 0 {
			t.Errorf("warnings at the start: %q", got.Warnings)
		}
		s.settle(90 * time.Second)
		got = s.want("without a consensus for long", status.StateStarting)
		if len(got.Warnings) == 0 {
			t.Error("no warning about it")
		}
		s.net.Tor().RegainConsensus()
		s.settle(time.Minute)
		s.want("with a consensus", status.StateOK)
		s.net.Tor().FreezeConsensus(true)
		s.fetchEvery(20 * time.Minute)
		s.settle(5 * time.Hour)
		got = s.want("with a stale consensus", status.StateDegraded)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), "consensus ended at") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.reach("with a stale consensus", 20)
		s.net.Tor().FreezeConsensus(false)
		s.settle(4 * time.Hour)
		s.want("with a new consensus", status.StateOK)
	})
}

func TestRingShorterThanTheSlots(t *testing.T) {
	onScene(t, sim.Config{Seed: 5, Relays: 12, WithoutHSDir: 7}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		got := s.want("with five HSDirs", status.StateOK)
		for _, d := range got.Descriptors {
			if d.Confirmed != 5 || len(d.Slots) != 5 {
				t.Errorf("the %s descriptor: %d slots of which %d confirmed, want 5 and 5", d.Which, len(d.Slots), d.Confirmed)
			}
		}
		s.reach("with five HSDirs", 20)
	})
}

// A network that takes only small descriptors gets fewer points, not none.
func TestSmallDescriptorsOnly(t *testing.T) {
	cfg := sim.Config{Seed: 16, Relays: 200, Params: map[string]int32{"HSV3MaxDescriptorSize": 20000}}
	many := make([]sim.InstanceConfig, 7)
	onSceneOf(t, cfg, many, func(t *testing.T, s *scene) {
		s.settle(30 * time.Second)
		got := s.want("with room for few points", status.StateOK)
		for _, d := range got.Descriptors {
			if d.Points < 7 || d.Confirmed != len(d.Slots) {
				t.Errorf("the %s descriptor: %d points, %d of %d slots", d.Which, d.Points, d.Confirmed, len(d.Slots))
			}
			for _, slot := range d.Slots {
				if slot.Points < 5 || slot.Points > 7 {
					t.Errorf("%d points in a slot with room for 7", slot.Points)
				}
			}
		}
		s.reach("with room for few points", 20)
	})
}

func TestOneInstanceUnknownOfflineOrGarbage(t *testing.T) {
	for what, test := range map[string]struct {
		cfg  sim.InstanceConfig
		harm func(*sim.Instance)
		want status.State
	}{
		"unknown": {sim.InstanceConfig{Offline: true}, func(*sim.Instance) {}, status.StateUnknown},
		"invalid": {sim.InstanceConfig{}, func(i *sim.Instance) { i.SetGarbage(true) }, status.StateInvalid},
	} {
		onSceneOf(t, sim.Config{Seed: 6}, []sim.InstanceConfig{{}, test.cfg, {}}, func(t *testing.T, s *scene) {
			s.stop()
			test.harm(s.instances[1])
			s.settle(30 * time.Second)
			s.start()
			s.settle(2 * time.Minute)
			got := s.want(what, status.StateDegraded)
			if got.Instances[1].State != test.want || got.Instances[1].Error == "" {
				t.Errorf("%s: instance %+v", what, got.Instances[1])
			}
			if answers := s.reach(what, 100); answers[s.instances[1]] > 0 || answers[s.instances[0]] < 30 || answers[s.instances[2]] < 30 {
				t.Errorf("%s: the others do not share the clients: %v", what, answers)
			}
		})
	}
}

// An instance that dies is left out once its silence tells, and taken in again
// soon after it is back.
func TestInstanceDiesAndReturns(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 7}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		s.fetchEvery(5 * time.Minute)
		s.instances[0].SetOnline(false)
		s.reach("just after one died", 50)
		s.settle(5 * time.Hour)
		got := s.want("long after one died", status.StateDegraded)
		if got.Instances[0].Published != 0 || got.Instances[0].State == status.StateOK {
			t.Errorf("the dead instance: %+v", got.Instances[0])
		}
		s.reach("long after one died", 50)
		s.instances[0].SetOnline(true)
		s.settle(3 * time.Minute)
		got = s.want("when it is back", status.StateOK)
		if got.Instances[0].Published == 0 {
			t.Errorf("the returned instance: %+v", got.Instances[0])
		}
	})
}

// The last good descriptor stays published when no instance is left, and is
// never replaced by an empty one.
func TestAllInstancesGone(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 8}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		s.fetchEvery(10 * time.Minute)
		for _, i := range s.instances {
			i.SetOnline(false)
		}
		s.settle(6 * time.Hour)
		got := s.want("with no instance left", status.StateFailed)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), "no instance is reachable") {
			t.Errorf("it says so in none of %q", got.Warnings)
		}
		for _, d := range got.Descriptors {
			if d.Points == 0 || d.Confirmed == 0 {
				t.Errorf("the %s descriptor: %+v", d.Which, d)
			}
		}
		// A restart in that state publishes the last good points again.
		s.restart()
		s.settle(2 * time.Minute)
		got = s.want("after a restart", status.StateFailed)
		if len(got.Descriptors) != 2 || got.Descriptors[0].Points == 0 || got.Descriptors[0].Confirmed == 0 {
			t.Errorf("after a restart: %+v", got.Descriptors)
		}
		for _, i := range s.instances {
			i.SetOnline(true)
		}
		s.settle(3 * time.Minute)
		s.want("with all back", status.StateOK)
		s.reach("with all back", 20)
	})
}

// HSDirs that lie, refuse or sleep cost nothing but their own slot.
func TestFaultyHSDirs(t *testing.T) {
	t.Parallel()
	for what, faults := range map[string]sim.Faults{
		"silent":         {Silent: true},
		"slow":           {Delay: 10 * time.Minute},
		"replays":        {Replay: true},
		"forges":         {Forge: sim.Tampered},
		"raises":         {Forge: sim.Raised},
		"sends garbage":  {Forge: sim.Garbage},
		"rejects":        {RejectUploads: true},
		"forgets":        {Amnesia: true},
		"overloaded":     {Overloaded: true},
		"refuses to say": {RejectFetches: true},
	} {
		onScene(t, sim.Config{Seed: 9, Relays: 200}, func(t *testing.T, s *scene) {
			s.net.Tor().SetFaults(sim.ControlFaults{Trusting: true})
			s.settle(time.Minute)
			first, second, err := s.net.Responsible(s.custodian.Address())
			if err != nil {
				t.Fatal(err)
			}
			bad := []*sim.Relay{first[0], second[1]}
			for _, i := range s.instances {
				f, _, err := s.net.Responsible(i.Address())
				if err != nil {
					t.Fatal(err)
				}
				bad = append(bad, f[0])
			}
			for _, r := range bad {
				r.SetFaults(faults)
			}
			s.restart()
			s.settle(3 * time.Minute)
			got := s.want(what, status.StateOK)
			for _, d := range got.Descriptors {
				if d.Confirmed < 6 {
					t.Errorf("%s: only %d of %d slots of the %s descriptor", what, d.Confirmed, len(d.Slots), d.Which)
				}
			}
			for _, i := range got.Instances {
				if i.State != status.StateOK {
					t.Errorf("%s: instance %+v", what, i)
				}
			}
			s.reach(what, 20)
			// When the fault is fixed, every slot is filled without our doing.
			s.fetchEvery(20 * time.Minute)
			for _, r := range bad {
				r.SetFaults(sim.Faults{})
			}
			s.settle(2 * time.Hour)
			for _, d := range s.want(what+" fixed", status.StateOK).Descriptors {
				if d.Confirmed != len(d.Slots) {
					t.Errorf("%s fixed: %d of %d slots of the %s descriptor: %+v", what, d.Confirmed, len(d.Slots), d.Which, d.Slots)
				}
			}
		})
	}
}

// An hour forth and back is harmless: no upload is refused, no request lost.
func TestClockSteps(t *testing.T) {
	onScene(t, sim.Config{Seed: 10}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		for _, by := range []time.Duration{time.Hour, -2 * time.Hour, -time.Hour, 3 * time.Hour, -time.Hour} {
			s.step(by)
			s.settle(time.Second)
			s.instances[0].ReplacePoints() // so that something is published
			s.settle(5 * time.Minute)
			s.want("after a step of "+by.String(), status.StateOK, status.StateDegraded)
			s.reach("after a step of "+by.String(), 20)
		}
		if counts := s.net.Tor().Counts(); counts.Rejected > 0 || counts.Stored == 0 {
			t.Errorf("%d uploads were refused, %d taken", counts.Rejected, counts.Stored)
		}
		s.want("in the end", status.StateOK)
	})
}

// A clock that was ahead, or another balancer's, leaves higher revision
// counters at the HSDirs than ours: we go above them.
func TestHigherRevisionAtTheHSDirs(t *testing.T) {
	onScene(t, sim.Config{Seed: 11}, func(t *testing.T, s *scene) {
		s.step(3 * time.Hour)
		s.settle(10 * time.Minute)
		s.stop()
		s.step(-3 * time.Hour)
		s.dir = t.TempDir() // and the counters are lost
		s.start()
		s.settle(10 * time.Minute)
		if s.rejected.Load() == 0 {
			t.Fatal("no upload was refused: the test shows nothing")
		}
		got := s.want("with lost floors", status.StateOK)
		for _, d := range got.Descriptors {
			if d.Confirmed != len(d.Slots) {
				t.Errorf("%d of %d slots of the %s descriptor: %+v", d.Confirmed, len(d.Slots), d.Which, d.Slots)
			}
		}
	})
}

// Killed at any moment and started again, with the store as it was: nothing that a
// service uploads is refused. What was in flight when it was killed may be, if it
// arrives after what came next.
func TestRestarts(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 12}, func(t *testing.T, s *scene) {
		for n := range 40 {
			s.settle(time.Duration(n*n) * 7 * time.Millisecond)
			s.restart()
		}
		s.settle(time.Minute)
		s.want("in the end", status.StateOK)
		if n := s.rejected.Load(); n > 0 {
			t.Errorf("%d uploads were refused", n)
		}
		s.reach("in the end", 20)
	})
}

func TestStoreFails(t *testing.T) {
	onScene(t, sim.Config{Seed: 13}, func(t *testing.T, s *scene) {
		s.broken = errors.New("read-only file system")
		s.restart()
		s.settle(time.Minute)
		got := s.want("with a store that fails", status.StateDegraded)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), "read-only file system") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.reach("with a store that fails", 20)
		for range 5 { // changes are published at once, however long the store has failed
			s.settle(20 * time.Minute)
			s.instances[0].ReplacePoints()
			s.settle(2 * time.Minute)
			if d := s.service.Status().Descriptors[0]; d.Reason != string(ReasonChanged) || time.Since(d.Built) > 2*time.Minute || d.Confirmed != len(d.Slots) {
				t.Errorf("a change: %s, made %s ago, %d of %d slots", d.Reason, time.Since(d.Built), d.Confirmed, len(d.Slots))
			}
		}
		s.store.fail(nil)
		s.fetchEvery(20 * time.Minute)
		s.settle(3 * time.Hour)
		s.want("with a store that works again", status.StateOK)
	})
}

// A custodian that cannot certify leaves what is published in place, and is
// asked again.
func TestCustodianFails(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 14, Params: fewSlots}, func(t *testing.T, s *scene) {
		s.startAt(9 * time.Hour)
		s.fetchEvery(30 * time.Minute)
		s.settle(time.Minute)
		s.custodian.fail(errTokenGone)
		s.settle(20 * time.Hour) // over the ends of a period and of a shared random value
		got := s.want("without a custodian", status.StateDegraded)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), errTokenGone.Error()) {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.custodian.fail(nil)
		s.settle(10 * time.Minute)
		got = s.want("with the custodian back", status.StateOK)
		if len(got.Descriptors) != 2 {
			t.Errorf("descriptors: %+v", got.Descriptors)
		}
		s.reach("with the custodian back", 20)
	})
}

// Whatever goes wrong at once, and however often, for three days, or one without
// make soak: no request is lost, and the service keeps calm.
func TestManyFaultsAtOnce(t *testing.T) {
	t.Parallel()
	days := 1
	if soaking() {
		days = 3
	}
	onScene(t, sim.Config{Seed: 15, Relays: 120, Churn: 0.1, Loss: 0.03}, func(t *testing.T, s *scene) {
		s.fetchEvery(30 * time.Minute)
		s.settle(time.Minute)
		faults := []sim.Faults{{Silent: true}, {RejectUploads: true}, {Replay: true}, {Forge: sim.Garbage}, {Amnesia: true}, {Overloaded: true}}
		relays := s.net.Relays()
		client := s.client()
		lost, requests := 0, 0
		for hour := range days * 24 {
			for n := range 6 {
				relays[(hour*7+n*13)%len(relays)].SetFaults(faults[(hour+n)%len(faults)])
				relays[((hour-1)*7+n*13+7*len(relays))%len(relays)].SetFaults(sim.Faults{})
			}
			if hour%9 == 4 {
				s.net.Tor().Restart(5*time.Minute, time.Minute)
			}
			if hour%24 == 7 {
				s.instances[hour/24%3].ReplacePoints()
			}
			for range 6 {
				s.settle(10 * time.Minute)
				requests++
				if r := client.Request(); r.Err != nil {
					lost++
					t.Logf("hour %d: %v", hour, r.Err)
				}
			}
		}
		for _, r := range s.net.Relays() {
			r.SetFaults(sim.Faults{})
		}
		s.settle(3 * time.Hour)
		s.want("in the end", status.StateOK)
		counts := s.net.Tor().Counts()
		t.Logf("%d requests, %d lost; %+v", requests, lost, counts)
		if lost > 0 {
			t.Errorf("%d of %d requests lost", lost, requests)
		}
		// Two descriptors with 8 slots, made again about hourly for one reason or another.
		if counts.Posts > days*24*16*3 {
			t.Errorf("%d uploads in %d days", counts.Posts, days)
		}
	})
}
