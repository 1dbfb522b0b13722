package standby

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/testnet/sim"
)

// settle lets d pass, with the clients' look at it.
func (w *world) idle(when string, d time.Duration) {
	w.t.Helper()
	before := len(w.standby.took)
	w.run(d)
	if w.standby.taken() || len(w.standby.took) > before {
		w.t.Fatalf("%s: taken over from a living machine: %q", when, w.standby.why)
	}
}

// While the active machine lives the standby does nothing; when it dies the standby takes
// over before HSDirs have dropped what was published, and yields when it is back.
func TestActiveDiesAndReturns(t *testing.T) {
	for what, set := range map[string]func(*world){
		"balanced":                 nil,
		"balanced, with heartbeat": func(w *world) { w.beats = true },
		"hosted":                   func(w *world) { w.hosted = true },
		"ordinary":                 func(w *world) { w.ordinary = true },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: 1}, set, func(w *world) {
				w.idle("at first", longer(3, 5))
				w.active.kill()
				w.until("taken over", 170*time.Minute, w.standby.taken)
				w.run(longer(4, 6))
				w.active.start()
				w.until("yielded", 7*time.Minute, func() bool { return !w.standby.taken() })
				w.run(longer(4, 20))
				w.wantNoneLost("the active machine dies and returns")
				t.Logf("%q", w.standby.why)
				if w.standby.taken() || len(w.standby.took) != 1 {
					t.Errorf("%q", w.standby.why)
				}
			})
		})
	}
}

// longer returns the hours that ordinary tests take, or "make soak".
func longer(hours, soak time.Duration) time.Duration {
	if soaking() {
		hours = soak
	}
	return hours * time.Hour
}

// month is a month in which the active machine is killed at random and returns, and
// instances replace their introduction points.
func month(t *testing.T, seed uint64, days int, set func(*world)) {
	random := rand.New(rand.NewPCG(seed, 12))
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(random.Int64N(int64(high-low)))
	}
	cfg := sim.Config{Seed: seed, Relays: 60, Churn: 0.05}
	onWorld(t, cfg, func(w *world) {
		w.fetchEvery = 10 * time.Minute
		if set != nil {
			set(w)
		}
	}, func(w *world) {
		var overlaps time.Duration
		kills := 0
		replace := time.Now().Add(between(time.Hour, 5*time.Hour))
		change := time.Now().Add(between(time.Hour, 24*time.Hour))
		var back time.Time // when the active machine came back, until the standby yields
		for end := time.Now().AddDate(0, 0, days); time.Now().Before(end); w.run(5 * time.Minute) {
			now := time.Now()
			if now.After(replace) {
				for n, i := range w.instances { // sometimes all, as when all are updated at once
					if n == 0 || random.IntN(3) == 0 {
						i.ReplacePoints()
					}
				}
				replace = now.Add(between(time.Hour, 5*time.Hour))
			}
			if !back.IsZero() && !w.standby.taken() {
				overlaps, back = max(overlaps, w.standby.yielded[len(w.standby.yielded)-1].Sub(back)), time.Time{}
			}
			if now.Before(change) {
				continue
			}
			if w.active.process != nil {
				w.active.kill()
				kills++
				back = time.Time{}
				change = now.Add(between(10*time.Minute, 9*time.Hour))
			} else {
				if w.standby.taken() {
					back = now
				}
				w.active.start()
				change = now.Add(between(2*time.Hour, 20*time.Hour))
			}
		}
		w.report(fmt.Sprintf("%d days, seed %d", days, seed))
		t.Logf("%d kills, %d taken over, %d yielded, overlap %s at most", kills, len(w.standby.took), len(w.standby.yielded), overlaps)
		for _, why := range w.standby.why {
			t.Log(why)
		}
		// Clients lose visits only while no published point lives, and for no longer than the
		// standby bears that, by what it reads every five minutes, and by instances that it
		// fetches every ten.
		if most := max(DefaultTiming.Alone.Unmet, 2*w.fetchEvery) + 2*DefaultTiming.Every + 2*time.Minute; w.tally.unreached > most {
			t.Errorf("clients reached nobody for %s", w.tally.unreached)
		}
		if w.tally.gap > 5*time.Minute {
			t.Errorf("clients found no descriptor for %s", w.tally.gap)
		}
	})
}

func TestMonth(t *testing.T) {
	days := 1
	if soaking() {
		days = 30
	}
	for what, set := range map[string]func(*world){
		"balanced":       nil,
		"with heartbeat": func(w *world) { w.beats = true },
		"hosted":         func(w *world) { w.hosted = true },
		"ordinary":       func(w *world) { w.ordinary = true },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			month(t, 20, days, set)
		})
	}
}

// The active machine dies before it has made the descriptor of the next period: the standby
// looks for that as soon as clients do.
func TestTurn(t *testing.T) {
	onWorld(t, sim.Config{Seed: 15}, nil, func(w *world) {
		w.run(time.Until(time.Now().Truncate(24 * time.Hour).Add(11*time.Hour + 40*time.Minute)))
		w.active.kill()
		for _, r := range w.net.Relays() {
			if _, second, err := w.net.Responsible(w.key.Address()); err == nil && slices.Contains(second, r) {
				r.Wipe()
			}
		}
		w.run(22 * time.Minute)
		turned := time.Now() // within a minute, the standby's tor has the consensus of noon
		w.until("taken over", 5*time.Minute, w.standby.taken)
		t.Logf("taken over %s later: %q", time.Since(turned), w.standby.why)
		if w.tally.gap > 2*time.Minute {
			t.Errorf("clients found no descriptor for %s", w.tally.gap)
		}
	})
}

// All instances replace their points after the active machine died: clients reach nobody
// for as long as the standby bears that, and no longer. The counters that it takes are above
// those of a clock that was ahead.
func TestUnmet(t *testing.T) {
	// What instances show is fetched every five minutes, give or take a tenth, and then HSDirs are
	// read; a minute is for answers.
	const seen = 5*time.Minute + 30*time.Second + time.Minute
	for what, test := range map[string]struct {
		beats bool
		most  time.Duration
	}{
		"no heartbeat": {false, seen + DefaultTiming.Every + DefaultTiming.Alone.Unmet},
		"heartbeat":    {true, seen + DefaultTiming.Every + 10*time.Minute}, // twice what instances' fetches are apart
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: 14}, func(w *world) { w.beats, w.active.skew = test.beats, time.Hour }, func(w *world) {
				w.idle("at first", time.Hour)
				w.active.kill()
				w.run(10 * time.Minute)
				for _, i := range w.instances {
					i.ReplacePoints()
				}
				w.until("taken over", test.most, w.standby.taken)
				w.run(10 * time.Minute)
				w.report(what)
				if n := w.standby.tor.Counts().Rejected; n > 0 {
					t.Errorf("%d uploads were refused", n)
				}
				if !strings.Contains(w.standby.why[0], string(ReasonUnmet)) || w.tally.unreached > test.most {
					t.Errorf("%q, clients reached nobody for %s", w.standby.why, w.tally.unreached)
				}
			})
		})
	}
}

// Both machines are cut from each other for six hours, and each from the HSDirs that the
// other reaches, so that neither can tell the other from one that died. No visit is lost,
// and the standby yields soon after that, if it has taken over.
func TestSplit(t *testing.T) {
	share := func(digits string, is bool) func(string) bool {
		return func(hsdir string) bool { return strings.Contains(digits, hsdir[len(hsdir)-1:]) == is }
	}
	for _, test := range []struct {
		seed   uint64
		digits string // of HSDirs that the active one reaches
	}{{30, "13579BDF"}, {31, "13579BDF"}, {34, "04"}, {33, "048C"}} {
		t.Run(fmt.Sprint(test.seed), func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: test.seed, Params: map[string]int32{}}, func(w *world) { w.beats = true }, func(w *world) {
				w.idle("at first", 3*time.Hour)
				w.active.set(func(m *machine) { m.reach, m.mute = share(test.digits, true), true })
				w.standby.set(func(m *machine) { m.reach = share(test.digits, false) })
				for n := range 6 {
					w.instances[n%3].ReplacePoints()
					w.tally.excused = time.Now().Add(w.fetchEvery + 2*time.Minute) // one may know of no other
					w.run(time.Hour)
				}
				taken := w.standby.taken()
				if !taken && len(test.digits) < 8 {
					t.Error("not taken over: the test shows nothing")
				}
				w.active.set(func(m *machine) { m.reach, m.mute = nil, false })
				w.standby.set(func(m *machine) { m.reach = nil })
				if healed := time.Now(); taken {
					w.until("yielded", DefaultTiming.Every+time.Minute, func() bool { return !w.standby.taken() })
					t.Logf("yielded after %s", time.Since(healed))
				}
				w.idle("after it has yielded", longer(3, 12))
				w.wantNoneLost("split for six hours")
			})
		})
	}
}

// The active machine is cut off the network for hours, with instances that replace all
// their points meanwhile, and comes back with a stale view: it asks before it publishes.
func TestActiveCutOff(t *testing.T) {
	for what, cut := range map[string]func(w *world, is bool){
		"off the network": func(w *world, is bool) { w.active.tor.SetOffline(is) },
		"asleep": func(w *world, is bool) {
			if is {
				w.active.sleep()
			} else {
				w.active.wake()
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: 5}, nil, func(w *world) {
				w.idle("at first", 2*time.Hour)
				cut(w, true)
				w.until("taken over", 150*time.Minute, w.standby.taken)
				for _, i := range w.instances {
					w.run(80 * time.Minute)
					i.ReplacePoints()
				}
				w.run(time.Hour)
				w.report("before it is back")
				cut(w, false)
				back := time.Now()
				w.until("yielded", 3*time.Hour, func() bool { return !w.standby.taken() })
				t.Logf("yielded %s after the active one was back", time.Since(back))
				w.run(6 * time.Hour)
				w.wantNoneLost("the active machine was " + what)
				t.Logf("%q", w.standby.why)
			})
		})
	}
}

// The standby sleeps while the active machine dies, or while that comes back: it looks
// before it does anything.
func TestStandbyAsleep(t *testing.T) {
	t.Run("standing by", func(t *testing.T) {
		t.Parallel()
		onWorld(t, sim.Config{Seed: 6}, func(w *world) { w.beats = true }, func(w *world) {
			w.idle("at first", 2*time.Hour)
			w.standby.sleep()
			for _, i := range w.instances {
				w.run(2 * time.Hour)
				i.ReplacePoints()
			}
			w.standby.wake()
			w.idle("when it wakes", 3*time.Hour)
			w.wantNoneLost("the standby slept")
			w.standby.sleep()
			w.active.kill()
			w.run(time.Hour)
			w.standby.wake()
			w.until("taken over", 90*time.Minute, w.standby.taken)
			w.run(3 * time.Hour)
			w.wantNoneLost("the standby slept when the active machine died")
		})
	})
	t.Run("taken over", func(t *testing.T) {
		t.Parallel()
		onWorld(t, sim.Config{Seed: 7}, nil, func(w *world) {
			w.idle("at first", 2*time.Hour)
			w.active.kill()
			w.until("taken over", 150*time.Minute, w.standby.taken)
			w.run(100 * time.Minute)
			w.standby.sleep()
			w.run(15 * time.Minute)
			w.active.start()
			for _, i := range w.instances {
				w.run(2 * time.Hour)
				i.ReplacePoints()
			}
			w.run(10 * time.Minute)
			posts := w.standby.tor.Counts().Stored
			w.standby.wake()
			w.until("yielded", 7*time.Minute, func() bool { return !w.standby.taken() })
			w.run(5 * time.Hour)
			if n := w.standby.tor.Counts().Stored - posts; n > 0 {
				t.Errorf("%d uploads of the standby were stored after it woke", n)
			}
			w.wantNoneLost("the standby slept while the active machine came back")
			t.Logf("%q", w.standby.why)
		})
	})
}

// What HSDirs say that withhold, repeat or lose has the standby do nothing, unless all do:
// then clients find nothing either.
func TestLyingHSDirs(t *testing.T) {
	for what, faults := range map[string]sim.Faults{
		"repeat": {Replay: true}, "withhold": {Amnesia: true}, "refuse": {RejectFetches: true}, "forge": {Forge: func([]byte) []byte { return []byte("hs-descriptor 3\n") }},
		"are silent": {Silent: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: 8, Params: map[string]int32{}}, nil, func(w *world) {
				w.idle("at first", 2*time.Hour)
				n := 0
				for _, r := range w.net.Relays() {
					if n++; n%5 != 0 { // four of five lie
						r.SetFaults(faults)
					}
				}
				w.run(5 * time.Hour) // in which the ring is the same
				for end := time.Now().Add(longer(0, 15)); time.Now().Before(end); w.run(time.Minute) {
					w.honest()
				}
				w.report(what)
				if w.standby.why != nil {
					t.Errorf("%q", w.standby.why)
				}
				if w.tally.lost > 0 {
					t.Errorf("%d visits lost", w.tally.lost)
				}
				if what != "withhold" && what != "forge" {
					return
				}
				for _, r := range w.net.Relays() {
					r.SetFaults(faults)
				}
				w.until("taken over", 10*time.Minute, w.standby.taken)
			})
		})
	}
}

// honest has every other HSDir of each ring tell the truth: else it may be that all of a new one
// lie, or that clients wait in vain for too many, whoever publishes.
func (w *world) honest() {
	first, second, err := w.net.Responsible(w.key.Address())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, ring := range [][]*sim.Relay{first, second} {
		for n := 0; n < len(ring); n += 2 {
			ring[n].SetFaults(sim.Faults{})
		}
	}
}

// Clocks that are wrong by an hour make no difference.
func TestSkewedClocks(t *testing.T) {
	for what, skews := range map[string][2]time.Duration{
		"active ahead": {time.Hour, 0}, "active behind": {-time.Hour, 0}, "standby ahead": {0, time.Hour}, "standby behind": {0, -time.Hour}, "apart": {time.Hour, -time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onWorld(t, sim.Config{Seed: 9}, func(w *world) { w.active.skew, w.standby.skew = skews[0], skews[1] }, func(w *world) {
				w.run(longer(7, 50))
				// At first sight nobody knows whose clock is wrong.
				if len(w.standby.took) > 1 || w.standby.taken() {
					t.Errorf("taken over from a living machine: %q", w.standby.why)
				}
				w.active.kill()
				w.until("taken over", 180*time.Minute, w.standby.taken)
				w.run(5 * time.Hour)
				w.active.start()
				w.until("yielded", DefaultTiming.Every+time.Minute, func() bool { return !w.standby.taken() })
				w.idle("after it has yielded", 5*time.Hour)
				w.wantNoneLost(what)
			})
		})
	}
}

// A standby that is started again goes on with what it had taken over.
func TestStandbyStartsAgain(t *testing.T) {
	onWorld(t, sim.Config{Seed: 10}, nil, func(w *world) {
		w.idle("at first", time.Hour)
		w.active.kill()
		w.until("taken over", 150*time.Minute, w.standby.taken)
		w.run(time.Hour)
		w.standby.kill()
		w.run(5 * time.Minute)
		w.standby.start()
		w.until("resumed", 2*time.Minute, w.standby.taken)
		w.active.start()
		w.until("yielded", 7*time.Minute, func() bool { return !w.standby.taken() })
		w.standby.kill()
		w.run(5 * time.Minute)
		w.standby.start()
		w.idle("after it had yielded", 4*time.Hour)
		w.wantNoneLost("the standby is started again")
	})
}

// A standby whose tor gets no new consensus does nothing, and tells of it.
func TestOldConsensus(t *testing.T) {
	onWorld(t, sim.Config{Seed: 11}, nil, func(w *world) {
		w.idle("at first", time.Hour)
		w.standby.tor.FreezeConsensus(true)
		w.idle("with an old consensus", longer(10, 50))
		if !slices.ContainsFunc(w.standby.alarms, func(s string) bool { return strings.Contains(s, "too few HSDirs") }) {
			t.Errorf("alarms %q", w.standby.alarms)
		}
		w.standby.tor.FreezeConsensus(false)
		w.idle("with a new one", 5*time.Hour)
		w.wantNoneLost("an old consensus")
	})
}

// A machine that only watches has no key, and tells what clients miss.
func TestWatch(t *testing.T) {
	onWorld(t, sim.Config{Seed: 12}, func(w *world) { w.standby.role = Watch }, func(w *world) {
		w.run(longer(6, 30))
		if len(w.standby.alarms) > 0 {
			t.Fatalf("alarms %q", w.standby.alarms)
		}
		w.active.kill()
		w.run(4 * time.Hour)
		synctest.Wait()
		t.Logf("%q", w.standby.alarms)
		if len(w.standby.alarms) < 1 || !strings.Contains(w.standby.alarms[0], "not been renewed") {
			t.Errorf("alarms %q", w.standby.alarms)
		}
	})
}

// A service that cannot be started is tried again, and one that is taken out is stopped.
func TestStartFails(t *testing.T) {
	onWorld(t, sim.Config{Seed: 13}, nil, func(w *world) {
		w.idle("at first", time.Hour)
		w.standby.fail(errBroken)
		w.active.kill()
		w.run(160 * time.Minute)
		if w.standby.taken() || !slices.Contains(w.standby.alarms, "taking over failed") {
			t.Errorf("taken over %t, alarms %q", w.standby.taken(), w.standby.alarms)
		}
		w.standby.fail(nil)
		w.until("taken over", 8*time.Minute, w.standby.taken)
		w.run(10 * time.Minute)
		w.standby.watcher.Set(nil)
		if len(w.standby.yielded) != 1 || w.standby.watcher.Awake(w.key.Address()) != true {
			t.Errorf("stopped %d times", len(w.standby.yielded))
		}
	})
}

// set changes a machine.
func (m *machine) set(change func(*machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}
