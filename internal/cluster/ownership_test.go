package cluster_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/testnet/managers/history"
)

// Three managers share the services evenly; a fourth gets its share slowly, after a while.
func TestShares(t *testing.T) {
	inWorld(t, 400, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(20 * time.Minute)
		for name, n := range first(w.owners()) {
			if n < 90 || n > 180 {
				t.Errorf("%s has %d services", name, n)
			}
		}
		w.add("m4")
		time.Sleep(4 * time.Minute)
		if of := first(w.owners()); of["m4"] != 0 {
			t.Errorf("after 4 minutes the newcomer has %d services", of["m4"])
		}
		time.Sleep(2 * time.Minute)
		if of := first(w.owners()); of["m4"] == 0 || of["m4"] > 6*20 {
			t.Errorf("after 6 minutes the newcomer has %d services", of["m4"])
		}
		time.Sleep(15 * time.Minute)
		w.until("with a fourth", 15*time.Second)
		for name, n := range first(w.owners()) {
			if n < 60 || n > 140 {
				t.Errorf("%s has %d services", name, n)
			}
		}
	})
}

func first(of map[string]int, _, _ int) map[string]int { return of }

// A manager that is killed is followed within the life of its lease, and nothing is
// published for that reason. One that leaves is followed at once.
func TestKilledAndLeaving(t *testing.T) {
	inWorld(t, 300, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(20 * time.Minute)
		before := w.uploads()
		w.named("m2").kill()
		took := w.until("after a kill", 15*time.Second)
		w.named("m3").leave()
		left := w.until("after one left", 3*time.Second)
		t.Logf("killed: %s, left: %s", took, left)
		time.Sleep(time.Minute)
		if n := w.uploads() - before; n != 0 {
			t.Errorf("%d uploads, and nothing was due", n)
		}
		time.Sleep(3 * time.Hour)
		if gap := w.gap(time.Time{}); gap > refreshEvery+20*time.Second {
			t.Errorf("a service was without an upload for %s", gap)
		}
	})
}

// All services that are to be taken are, before the first of them starts. When the store is slow,
// those that it gave start, and the others are taken meanwhile.
func TestTakenTogether(t *testing.T) {
	const services = 2500
	inWorld(t, services, func(t *testing.T, w *managed) {
		w.add("m1")
		w.until("at the start", 15*time.Second)
		m1 := w.named("m1")
		if !slices.Equal(m1.taking, []int{services}) || !slices.Equal(m1.starts, []int{services}) {
			t.Errorf("%d taken, %d started", m1.taking, m1.starts)
		}
		m1.kill()
		m1.client.Set(func(f *clustertest.Faults) { f.Slow = 600 * time.Millisecond })
		m1.taking, m1.starts = nil, nil
		m1.start()
		w.until("with a slow store", time.Minute)
		if len(m1.starts) < 3 || m1.taking[0] != services || m1.taking[1] != services-m1.starts[0] || m1.starts[0] > 1000 {
			t.Errorf("with a slow store: %d taken, %d started", m1.taking, m1.starts)
		}
	})
}

// A process that is started again at once goes on with what it owned.
func TestStartedAgain(t *testing.T) {
	inWorld(t, 100, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		time.Sleep(10 * time.Minute)
		before := first(w.owners())
		w.named("m1").kill()
		w.named("m1").start()
		if took := w.until("started again", 5*time.Second); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
		if after := first(w.owners()); after["m1"] != before["m1"] {
			t.Errorf("it has %d services, and had %d", after["m1"], before["m1"])
		}
		time.Sleep(2 * time.Hour)
	})
}

// Managers that start at the same moment take nothing from each other: what one has taken
// since the other decided is not free.
func TestStartTogether(t *testing.T) {
	for range 20 {
		inWorld(t, 50, func(t *testing.T, w *managed) {
			w.add("m1", "m2")
			w.until("at the start", 15*time.Second)
			for _, m := range w.managers {
				if n := m.cluster.Status().Counts.Fenced; n > 0 {
					t.Errorf("%d services were taken from %s", n, m.name)
				}
				m.mu.Lock()
				if slices.Contains(m.events, "this manager cannot publish a service") {
					t.Errorf("%s could not publish", m.name)
				}
				m.mu.Unlock()
			}
		})
	}
}

// Draining, a manager gives all and takes nothing while another can.
func TestDrain(t *testing.T) {
	inWorld(t, 100, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		w.named("m1").cluster.Drain(true)
		time.Sleep(5 * time.Second)
		w.until("draining", 5*time.Second)
		if of := first(w.owners()); of["m1"] != 0 || of["m2"] != 100 {
			t.Errorf("draining: %v", of)
		}
		w.named("m2").kill()
		w.until("the other is gone", 15*time.Second)
		w.named("m2").start()
		w.until("the other is back", 15*time.Second)
		time.Sleep(5 * time.Second)
		if of := first(w.owners()); of["m2"] != 100 {
			t.Errorf("the other is back: %v", of)
		}
		w.named("m1").cluster.Drain(false)
		time.Sleep(30 * time.Minute)
		w.until("not draining any more", 5*time.Second)
		if of := first(w.owners()); of["m1"] < 30 {
			t.Errorf("not draining any more: %v", of)
		}
		time.Sleep(2 * time.Hour)
	})
}

// One that is cut off from the engine goes on until it hears of the new owners.
func TestCutOff(t *testing.T) {
	inWorld(t, 90, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(50 * time.Minute)
		w.named("m1").client.Set(cut(true))
		time.Sleep(20 * time.Minute)
		_, none, several := w.owners()
		if none != 0 || several == 0 {
			t.Errorf("cut off: %d services have no manager, %d several", none, several)
		}
		w.named("m1").client.Set(cut(false))
		w.until("healed", 15*time.Second)
		time.Sleep(3 * time.Hour)
		if gap := w.gap(time.Time{}); gap > refreshEvery+20*time.Second {
			t.Errorf("a service was without an upload for %s", gap)
		}
	})
}

// An engine that does not answer for hours is noticed by nobody; then nothing is published
// any more, until it is back.
func TestEngineDown(t *testing.T) {
	inWorld(t, 60, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(50 * time.Minute)
		before := first(w.owners())
		w.engine.Down(true)
		time.Sleep(4 * time.Hour)
		if gap := w.gap(time.Time{}); gap > refreshEvery+2*time.Minute {
			t.Errorf("a service was without an upload for %s", gap)
		}
		time.Sleep(8 * time.Hour)
		held := w.uploads()
		time.Sleep(time.Hour)
		if n := w.uploads() - held; n != 0 {
			t.Errorf("%d uploads above what was reserved", n)
		}
		w.engine.Down(false)
		time.Sleep(3 * time.Minute)
		w.until("the engine is back", time.Minute)
		if after := first(w.owners()); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("services moved: %v, before %v", after, before)
		}
		if gap := w.gap(time.Now()); gap > 4*time.Minute {
			t.Errorf("a service is without an upload for %s", gap)
		}
	})
}

// An engine that ends all leases as it comes back moves nothing: all were cut off alike. One
// who was dead before is replaced, somewhat later.
func TestLeasesLostInOutage(t *testing.T) {
	inWorld(t, 60, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(10 * time.Minute)
		before := first(w.owners())
		w.engine.Down(true)
		time.Sleep(30 * time.Second)
		w.engine.Down(false)
		w.engine.EndLeases()
		time.Sleep(time.Minute)
		if after := first(w.owners()); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("services moved: %v, before %v", after, before)
		}
		w.engine.Down(true)
		w.named("m2").kill()
		time.Sleep(30 * time.Second)
		w.engine.Down(false)
		w.engine.EndLeases()
		w.until("m2 is dead", 20*time.Second)
	})
}

// Only those who can certify a service publish it. When the last is gone it is an orphan,
// which is told.
func TestCustody(t *testing.T) {
	inWorld(t, 30, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		special := w.services[7].Address
		w.named("m3").lacks[special] = errors.New("there is no key")
		w.named("m3").want()
		time.Sleep(10 * time.Second)
		w.until("at the start", 15*time.Second)
		has := func() string {
			for _, m := range w.managers {
				m.mu.Lock()
				p := m.published[special]
				m.mu.Unlock()
				if p != nil {
					return m.name
				}
			}
			return ""
		}
		one := has()
		if one == "" || one == "m3" {
			t.Fatalf("%q has it", one)
		}
		w.named(one).kill()
		w.until("one is gone", 15*time.Second)
		other := has()
		if other == "" || other == "m3" || other == one {
			t.Fatalf("%q has it", other)
		}
		w.named(other).kill()
		time.Sleep(15 * time.Second)
		if got := w.named("m3").cluster.Status(); len(got.Orphans) != 1 || got.Orphans[0] != special || got.Owned != 29 {
			t.Errorf("orphans %v, %d owned", got.Orphans, got.Owned)
		}
		w.named(one).start()
		w.until("one is back", 15*time.Second)
		if got := w.named("m3").cluster.Status(); len(got.Orphans) != 0 {
			t.Errorf("orphans %v", got.Orphans)
		}
	})
}

// A manager that cannot start a service leaves it to another.
func TestCannotStart(t *testing.T) {
	inWorld(t, 30, func(t *testing.T, w *managed) {
		w.add("m1")
		for _, s := range w.services[:10] {
			w.named("m1").broken[s.Address] = errors.New("its token is gone")
		}
		time.Sleep(20 * time.Second)
		if of := first(w.owners()); of["m1"] != 20 {
			t.Errorf("alone: %v", of)
		}
		w.add("m2")
		w.until("with another", 15*time.Second)
		w.named("m1").set(func() { clear(w.named("m1").broken) })
		time.Sleep(3 * time.Hour)
		if of := first(w.owners()); of["m1"] < 5 || of["m2"] < 5 {
			t.Errorf("with the token back: %v", of)
		}
	})
}

// One that hangs while its lease lives is passed over.
func TestStuck(t *testing.T) {
	inWorld(t, 60, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(time.Minute)
		m := w.named("m1")
		m.set(func() { m.stuck = make(chan struct{}) })
		w.named("m2").kill()
		time.Sleep(25 * time.Second) // m1 hangs as it starts what it took first
		w.named("m3").leave()
		w.named("m3").start()
		m.set(func() {
			close(m.stuck)
			m.stuck = nil
		})
		w.until("it hangs no more", 30*time.Second)
	})
}

// A second manager of one name is refused, and takes nothing.
func TestSameName(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1")
		w.until("at the start", 15*time.Second)
		w.add("m1")
		time.Sleep(time.Minute)
		w.until("with another of the name", time.Second)
		second := w.managers[1]
		if got := second.cluster.Status(); got.Joined || len(got.Troubles) == 0 || got.Owned != 0 {
			t.Errorf("the second: %+v", got)
		}
		w.managers[0].kill()
		w.until("the first is gone", 15*time.Second)
	})
}

// A manager whose tor is dead gives its services away, and gets them back.
func TestUnfit(t *testing.T) {
	inWorld(t, 60, func(t *testing.T, w *managed) {
		w.add("m1") // and it takes all
		w.until("at the start", 15*time.Second)
		w.add("m2")
		m1 := w.named("m1")
		m1.set(func() { m1.unfit = errors.New("its tor does not answer") })
		time.Sleep(time.Minute)
		if of := first(w.owners()); of["m1"] == 0 {
			t.Error("it gave everything at once")
		}
		time.Sleep(90 * time.Second)
		w.until("unfit", 5*time.Second)
		if of := first(w.owners()); of["m1"] != 0 {
			t.Errorf("unfit: %v", of)
		}
		m1.set(func() { m1.unfit = nil })
		time.Sleep(20 * time.Minute)
		if of := first(w.owners()); of["m1"] < 10 {
			t.Errorf("fit again: %v", of)
		}
	})
}

// An engine that lost everything: nobody stops, and what was restored goes on.
func TestWipedAndRestored(t *testing.T) {
	inWorld(t, 60, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(30 * time.Minute)
		w.engine.Wipe()
		time.Sleep(2 * time.Hour)
		w.until("wiped", time.Second)
		if gap := w.gap(time.Time{}); gap > refreshEvery+20*time.Second {
			t.Errorf("a service was without an upload for %s", gap)
		}
		w.named("m2").kill()
		time.Sleep(time.Minute)
		if err := w.named("m1").cluster.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until("restored", time.Minute)
		time.Sleep(3 * time.Hour)
		w.until("restored", time.Second)
	})
}

// forget
func TestForget(t *testing.T) {
	inWorld(t, 10, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		if err := w.named("m1").cluster.Forget(t.Context(), "m2"); err == nil {
			t.Error("one that is alive was forgotten")
		}
		if err := w.named("m1").cluster.Forget(t.Context(), "m9"); err == nil {
			t.Error("one that is unknown was forgotten")
		}
	})
}

// Ten thousand services, or a thousand: one of three managers is killed.
func TestTenThousand(t *testing.T) {
	services := 1000
	if soaking() {
		services = 10_000
	}
	inWorld(t, services, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 60*time.Second)
		time.Sleep(10 * time.Minute)
		before := w.uploads()
		w.named("m2").kill()
		took := w.until("after a kill", 15*time.Second)
		n := w.uploads() - before
		t.Logf("taken within %s, %d uploads", took, n)
		if n != 0 {
			t.Errorf("%d uploads, and nothing was due", n)
		}
		time.Sleep(50 * time.Minute)
		if gap := w.gap(time.Time{}); gap > refreshEvery+20*time.Second {
			t.Errorf("a service was without an upload for %s", gap)
		}
	})
}

// A manager that is cut off until its reservation has ended, and writes before it reads who
// owns its services now, breaks the rules if the engine compares nothing: else it would show
// nothing that they are kept.
func TestControl(t *testing.T) {
	for _, careless := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 20)
			defer w.end()
			w.add("m1") // so that it owns some
			w.until("alone", 15*time.Second)
			w.add("m2")
			time.Sleep(15 * time.Second)
			m1 := w.named("m1")
			m1.careless.Store(careless)
			m1.deaf.Store(true)
			m1.client.Set(func(f *clustertest.Faults) { f.Cut, f.Mute = true, true })
			time.Sleep(reserve + time.Hour)
			m1.client.Set(cut(false))
			time.Sleep(10 * time.Minute)
			broken := history.Count(w.history.Breaches())
			t.Log(broken)
			if broken["V2"] > 0 != careless || broken["V3"] > 0 != careless {
				t.Errorf("careless %t: %v", careless, broken)
			}
		})
	}
}

// Whatever fails, no two terms share counters, and nothing of an earlier term is stored over
// what a later one stored; and when all is well again, each service has one manager.
func TestRandomFaults(t *testing.T) {
	runs := 10
	if soaking() {
		runs = 200
	}
	for seed := range runs {
		t.Logf("seed %d", seed)
		inWorld(t, 20, func(t *testing.T, w *managed) {
			random := rand.New(rand.NewPCG(uint64(seed), 12))
			w.add("m1", "m2", "m3", "m4")
			running := map[*manager]bool{}
			for _, m := range w.managers {
				running[m] = true
			}
			for range 60 {
				time.Sleep(time.Duration(random.Int64N(int64(10 * time.Minute))))
				m := w.managers[random.IntN(len(w.managers))]
				switch what := random.IntN(14); {
				case what < 4 && running[m]:
					if running[m] = false; what == 0 {
						m.leave()
					} else {
						m.kill()
					}
				case what < 4:
					running[m] = true
					m.start()
				case what < 6:
					on := random.IntN(2) == 0
					m.client.Set(cut(on))
				case what == 6:
					m.client.Set(func(f *clustertest.Faults) { f.LoseAnswers, f.LoseRequests = random.IntN(5), random.IntN(5) })
				case what == 7:
					m.client.Set(func(f *clustertest.Faults) { f.Late = time.Duration(random.Int64N(int64(time.Minute))) })
				case what == 8:
					m.client.Set(func(f *clustertest.Faults) { f.Mute = random.IntN(2) == 0 })
				case what == 9:
					w.engine.Down(random.IntN(3) == 0)
				case what == 10:
					w.engine.EndLeases()
				case what == 11:
					w.engine.Full(random.IntN(3) == 0)
				case what == 12:
					w.engine.Compact()
					w.engine.BreakWatches()
				case running[m]:
					m.cluster.Drain(random.IntN(2) == 0)
				}
			}
			w.engine.Down(false)
			w.engine.Full(false)
			for _, m := range w.managers {
				m.client.Set(func(f *clustertest.Faults) { *f = clustertest.Faults{} })
				if !running[m] {
					m.start()
				}
			}
			time.Sleep(5 * time.Minute)
			w.until(fmt.Sprintf("seed %d", seed), 10*time.Minute)
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}

func soaking() bool { return os.Getenv("BALANCER_SOAK") != "" }

func cut(is bool) func(*clustertest.Faults) { return func(f *clustertest.Faults) { f.Cut = is } }
