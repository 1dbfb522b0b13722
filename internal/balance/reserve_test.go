package balance

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

func reserves(d time.Duration) func(*Env) { return func(e *Env) { e.Reserve = d } }

var errNoQuorum = errors.New("no quorum")

// ahead returns how far ahead of the clock the counter of the descriptor that clients fetch
// is.
func (m *managers) ahead() time.Duration {
	m.t.Helper()
	m.service.mu.Lock()
	defer m.service.mu.Unlock()
	e := m.service.state.Editions[m.service.report.seen.current().Keys.Period]
	if e == nil {
		m.t.Fatal("nothing is published")
	}
	at, _, err := e.Credential.Revision.RevisionTime(m.service.report.seen.current().Ring.RunStart, e.Revision)
	if err != nil {
		m.t.Fatal(err)
	}
	return at.Sub(e.Built.Truncate(time.Second))
}

// Managers one after the other, which are killed or end, with clocks that differ: no counter
// is used in two terms, none in a later one is below an earlier one's, and none is above what
// was reserved. After an end the next manager's counters are those of the clock, and after a
// kill they are above all that was reserved.
func TestCountersOfTerms(t *testing.T) {
	const reserve = 6 * time.Hour
	onManagers(t, sim.Config{Seed: 201, Relays: 30, Latency: 200 * time.Millisecond}, reserves(reserve), func(t *testing.T, m *managers) {
		for life := range 14 {
			m.settle(time.Duration(life%6) * 400 * time.Millisecond) // some fetches, all, a part of the uploads
			m.instances[life%3].ReplacePoints()
			m.settle(time.Duration(life%4) * 20 * time.Second)
			if life%3 == 0 {
				m.stop()
			} else {
				m.kill()
			}
			m.step(time.Duration(life%3-1) * 20 * time.Minute)
			m.start()
		}
		m.step(-m.skew)
		m.settle(2 * time.Minute)
		if m.launches() < 60 || m.late > 0 {
			t.Errorf("%d uploads, %d of them late: the test shows nothing", m.launches(), m.late)
		}
		m.reach("in the end", 10)
	})
	for _, killed := range []bool{true, false} {
		onManagers(t, sim.Config{Seed: 202, Relays: 30}, reserves(reserve), func(t *testing.T, m *managers) {
			m.settle(10 * time.Minute)
			if ahead := m.ahead(); ahead != 0 {
				t.Errorf("the first manager's counters are %s ahead of the clock", ahead)
			}
			least := time.Duration(0)
			if killed {
				m.kill()
				least = reserve - 15*time.Minute
			} else {
				m.stop()
			}
			m.start()
			m.settle(time.Minute)
			m.instances[0].ReplacePoints()
			m.settle(5 * time.Minute)
			if ahead := m.ahead(); ahead < least || ahead > least+15*time.Minute || !killed && ahead != 0 {
				t.Errorf("killed %t: the next manager's counters are %s ahead of the clock", killed, ahead)
			}
			// And however many are killed, they do not run away.
			for range 5 {
				m.kill()
				m.start()
				m.settle(time.Minute)
				m.instances[0].ReplacePoints()
				m.settle(5 * time.Minute)
			}
			if ahead := m.ahead(); ahead > reserve+5*2*time.Hour {
				t.Errorf("after five more were killed, the counters are %s ahead", ahead)
			}
		})
	}
}

// Nobody notices that the store does not answer for ten minutes; for hours, what is reserved
// is used up, and then the service waits and says so. When the store answers, it goes on.
func TestStoreOutage(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprintf("hangs %t", hangs), func(t *testing.T) {
			t.Parallel()
			onManagers(t, sim.Config{Seed: 203, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
				m.settle(5 * time.Minute)
				out := func() (mend func()) {
					if hangs {
						return m.shared.hang()
					}
					m.shared.fail(errNoQuorum)
					return func() { m.shared.fail(nil) }
				}
				changed := func(when string) { // what an instance changes is published
					t.Helper()
					before := m.launches()
					m.instances[0].ReplacePoints()
					m.settle(3 * time.Minute)
					if m.launches() < before+16 {
						t.Errorf("%s: %d uploads", when, m.launches()-before)
					}
					m.reach(when, 3)
				}
				mend := out()
				changed("without the store")
				m.settle(7 * time.Minute)
				m.want("in an outage of ten minutes", status.StateOK)
				mend()
				m.settle(6 * time.Minute)
				changed("after that")

				until, holds := m.service.Reserved()
				if left := until.Sub(m.now()); holds || left < 5*time.Hour+55*time.Minute || left > 6*time.Hour || !m.service.Status().ReservedUntil.Equal(until) {
					t.Errorf("reserved for %s, holds %t", left, holds)
				}
				mend = out()
				began := time.Now()
				for time.Since(began) < 5*time.Hour+40*time.Minute {
					changed("hours without the store")
					m.settle(17 * time.Minute)
				}
				if got := m.want("after hours", status.StateDegraded); !warned(got, "revision counters are reserved until "+clock(until)) {
					t.Errorf("warnings %q", got.Warnings)
				}
				m.settle(time.Until(began.Add(6*time.Hour + time.Minute)))
				before := m.launches()
				m.instances[1].ReplacePoints()
				m.settle(time.Until(began.Add(8 * time.Hour)))
				if n := m.launches() - before; n > 0 {
					t.Errorf("%d uploads after the reservation's end", n)
				}
				if got := m.want("after the reservation's end", status.StateDegraded, status.StateFailed); !warned(got, "the reservation of revision counters ended at "+clock(until)+" and the store does not answer") {
					t.Errorf("warnings %q", got.Warnings)
				}
				if _, holds := m.service.Reserved(); !holds {
					t.Error("it does not say that it holds")
				}
				mend()
				m.settle(time.Minute)
				m.want("after the outage", status.StateOK)
				m.reach("after the outage", 5)
				if m.launches() == before {
					t.Error("nothing was uploaded after the outage")
				}
			})
		})
	}
}

// A reservation is renewed when half of it is left, even if nothing else is to be stored.
func TestReservationIsRenewed(t *testing.T) {
	onManagers(t, sim.Config{Seed: 204, Relays: 30}, reserves(20*time.Minute), func(t *testing.T, m *managers) {
		m.settle(2 * time.Minute)
		before, swaps := m.launches(), m.mine.swaps.Load()
		for range 40 {
			m.settle(time.Minute)
			if until, holds := m.service.Reserved(); until.Sub(m.now()) < 9*time.Minute || holds {
				t.Fatalf("reserved for %s", until.Sub(m.now()))
			}
		}
		if n := m.mine.swaps.Load() - swaps; n < 3 || n > 5 || m.launches() != before {
			t.Errorf("%d writes in 40 minutes, %d uploads", n, m.launches()-before)
		}
	})
}

// What was reserved for periods that are long over is forgotten.
func TestReservationsAreForgotten(t *testing.T) {
	onManagers(t, sim.Config{Seed: 212, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.fetchEvery(50 * time.Minute)
		m.settle(9 * 24 * time.Hour)
		r, _, err := m.store.DB.Service(m.custodian.Address())
		if n := len(r.Ceilings); err != nil || n < 2 || n > counterPeriods+2 {
			t.Errorf("%d periods have counters in the record, %v", n, err)
		}
	})
}

// A store that is back after hours in which nothing changed is tried again soon for what
// changes then.
func TestChangeAfterOutage(t *testing.T) {
	onManagers(t, sim.Config{Seed: 204, Relays: 30}, reserves(10*time.Minute), func(t *testing.T, m *managers) {
		m.settle(5 * time.Minute)
		m.shared.fail(errNoQuorum)
		m.settle(27 * time.Minute)
		for range 5 { // wherever in the delay between two attempts
			m.shared.fail(nil)
			before := m.launches()
			m.instances[0].ReplacePoints()
			m.settle(90 * time.Second)
			if n := m.launches() - before; n < 16 {
				t.Errorf("%d uploads", n)
			}
			m.reach("after the outage", 3)
			m.shared.fail(errNoQuorum)
			m.settle(23 * time.Minute)
		}
	})
}

// The counters of a new period are reserved before any is used: without the store its
// descriptor waits, which nobody asks for yet, and the others go on, past the noon at which
// clients go over to the next.
func TestRotationInOutage(t *testing.T) {
	for _, clock := range []time.Duration{24*time.Hour - 10*time.Minute, 36*time.Hour - 10*time.Minute} {
		onManagers(t, sim.Config{Seed: 205, Relays: 40}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
			m.startAt(clock)
			m.settle(5 * time.Minute)
			m.want("before", status.StateOK)
			m.shared.fail(errNoQuorum)
			for range 9 {
				m.settle(10 * time.Minute)
				m.reach("in the outage", 3)
			}
			got := m.service.Status()
			if held := warned(got, "of the second descriptor is not reserved and the store does not answer"); held != (clock < 24*time.Hour) {
				t.Errorf("warnings %q", got.Warnings)
			}
			m.shared.fail(nil)
			m.settle(2 * time.Minute)
			for _, d := range m.want("after the outage", status.StateOK).Descriptors {
				if d.Confirmed != len(d.Slots) {
					t.Errorf("%+v", d)
				}
			}
			m.settle(13 * time.Hour)
			m.reach("half a day later", 3)
		})
	}
}

// A process was stopped for a minute with uploads queued and a change to publish. Nothing
// leaves before it has read its record again: nothing at all if another manager took over
// meanwhile, and everything if none did. The machine slept: the same.
func TestStopped(t *testing.T) {
	for _, taken := range []bool{true, false} {
		for _, slept := range []bool{true, false} {
			t.Run(fmt.Sprintf("taken over %t, slept %t", taken, slept), func(t *testing.T) {
				onManagers(t, sim.Config{Seed: 206, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
					m.settle(5 * time.Minute)
					for _, r := range m.net.Relays() {
						r.SetFaults(sim.Faults{Silent: true})
					}
					m.service.Reconfigure(m.configWith("another"))
					m.settle(3 * time.Minute) // uploads are in flight, or wait to be tried again
					m.asleep.Store(!slept)
					for _, r := range m.net.Relays() {
						r.SetFaults(sim.Faults{})
					}
					before, tries := m.launches(), m.mine.tries.Load()
					if taken {
						m.take("other")
					}
					m.step(map[bool]time.Duration{true: time.Hour, false: time.Minute}[slept])
					if !slept {
						m.service.Reconfigure(m.configWith("stale"))
						m.settle(3 * time.Minute)
						if n := m.launches() - before; n > 0 || m.mine.tries.Load() != tries {
							t.Errorf("%d uploads before it woke", n)
						}
						m.asleep.Store(false)
					}
					m.settle(3 * lookLate)
					if slept { // a retry may have come before the clock was looked at: Env.Awake is for that
						before = m.launches()
					}
					m.settle(10 * time.Minute)
					if m.mine.tries.Load() == tries {
						t.Error("the record was not looked at")
					}
					got := m.service.Status()
					if taken {
						if m.launches() != before || m.fenced.Load() != 1 || !warned(got, "another manager publishes it now") {
							t.Errorf("taken over: %d uploads, told %d times, warnings %q", m.launches()-before, m.fenced.Load(), got.Warnings)
						}
						return
					}
					if got.State != status.StateOK || m.fenced.Load() != 0 {
						t.Errorf("%s, %q", got.State, got.Warnings)
					}
					m.reach("in the end", 5)
				})
			})
		}
	}
}

// The answer to a write of before a process was stopped says nothing about now.
func TestStoppedBeforeAnAnswer(t *testing.T) {
	onManagers(t, sim.Config{Seed: 214, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.settle(5 * time.Minute)
		for _, r := range m.net.Relays() {
			r.SetFaults(sim.Faults{Silent: true})
		}
		late := make(chan struct{})
		m.mine.mu.Lock()
		m.mine.late = late
		m.mine.mu.Unlock()
		m.service.Reconfigure(m.configWith("another"))
		m.settle(20 * time.Second) // uploads are in flight, or wait to be tried again
		m.asleep.Store(true)
		m.service.Wake()
		m.settle(time.Minute)
		m.take("other")
		before := m.launches()
		for _, r := range m.net.Relays() {
			r.SetFaults(sim.Faults{})
		}
		release := m.shared.hang() // so that the next write does not tell at once
		m.asleep.Store(false)
		close(late)
		m.settle(5 * time.Second)
		release()
		m.settle(5 * time.Minute)
		if n := m.launches() - before; n > 0 || m.fenced.Load() != 1 {
			t.Errorf("%d uploads, told %d times", n, m.fenced.Load())
		}
	})
}

// stopping is a strategy in the midst of which the process is stopped.
type stopping struct {
	selection.Spread
	stop func()
}

func (x stopping) Wish(s []selection.Standing, now time.Time) selection.Wishes {
	x.stop()
	return x.Spread.Wish(s, now)
}

// A process was stopped while it planned: what it planned is not carried out.
func TestStoppedWhilePlanning(t *testing.T) {
	onManagers(t, sim.Config{Seed: 207, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		var stopped atomic.Int64
		prepare := m.prepare
		m.prepare = func() {
			prepare()
			now := m.env.Now
			m.env.Now = func() time.Time { return now().Add(time.Duration(stopped.Load())) } // of the service alone
		}
		m.restart()
		m.settle(5 * time.Minute)
		before, release := m.launches(), func() {}
		cfg := m.configWith("another")
		cfg.Strategy = stopping{stop: sync.OnceFunc(func() {
			stopped.Store(int64(time.Minute))
			m.take("other")
			release = m.shared.hang() // so that a write does not tell at once
		})}
		m.service.Reconfigure(cfg)
		m.settle(5 * time.Second)
		release()
		m.settle(5 * time.Minute)
		if n := m.launches() - before; n > 0 || m.fenced.Load() != 1 {
			t.Errorf("%d uploads, told %d times", n, m.fenced.Load())
		}
	})
}

// The machine slept, and a refresh became due: first the record is written again, as long as
// the store may answer, and then, even if it does not, that is published.
func TestSlept(t *testing.T) {
	onManagers(t, sim.Config{Seed: 213, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.settle(20 * time.Minute)
		m.want("before", status.StateOK)
		release := m.shared.hang()
		defer release()
		before, noticed := m.launches(), time.Time{}
		m.step(2 * time.Hour)
		for range 120 {
			m.settle(time.Second)
			if noticed.IsZero() && m.service.record.unread.Load() {
				noticed = time.Now()
			}
			if m.launches() > before {
				break
			}
		}
		if m.launches() == before || noticed.IsZero() || time.Since(noticed) < storeTimeout-time.Second {
			t.Errorf("%d uploads, %s after the sleep was noticed", m.launches()-before, time.Since(noticed))
		}
	})
}

// After a fenced write nothing of that term is launched, be it queued, waiting for another
// attempt, or planned.
func TestFenced(t *testing.T) {
	for _, naive := range []bool{false, true} {
		fencedBy(t, naive)
	}
}

// fencedBy runs TestFenced with a store that says so, or one that only knows versions.
func fencedBy(t *testing.T, naive bool) {
	t.Helper()
	onManagers(t, sim.Config{Seed: 208, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.mine.naive.Store(naive)
		m.settle(5 * time.Minute)
		for _, r := range m.net.Relays() {
			r.SetFaults(sim.Faults{Silent: true})
		}
		m.service.Reconfigure(m.configWith("another"))
		m.settle(2 * time.Minute)
		m.service.fenced.Store(true) // before the loop knows
		before := m.launches()
		m.settle(2 * time.Minute)
		if n := m.launches() - before; n > 0 {
			t.Errorf("%d uploads before the loop knows of the fenced write", n)
		}
		m.service.fenced.Store(false)
		m.take("other")
		before = m.launches()
		m.service.Reconfigure(m.configWith("a third"))
		m.settle(20 * time.Second) // its counter is reserved: it may leave before the write is answered, but not after
		after := m.launches()
		if m.fenced.Load() != 1 {
			t.Errorf("told %d times", m.fenced.Load())
		}
		for _, r := range m.net.Relays() {
			r.SetFaults(sim.Faults{})
		}
		m.instances[0].ReplacePoints()
		m.settle(5 * time.Hour)
		if n := m.launches() - after; n > 0 {
			t.Errorf("%d uploads after the fenced write, %d at its time", n, after-before)
		}
		if got := m.service.Status(); !warned(got, "another manager publishes it now") {
			t.Errorf("warnings %q", got.Warnings)
		}
	})
}

// A write was made though its answer was lost: what it reserved is reserved, nothing is made
// again for it, and no counter is skipped.
func TestAnswerOfAReservationIsLost(t *testing.T) {
	onManagers(t, sim.Config{Seed: 209, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.settle(5 * time.Minute)
		before := m.launches()
		m.mine.mu.Lock()
		m.mine.lose = true
		m.mine.mu.Unlock()
		m.service.Reconfigure(m.configWith("another"))
		m.settle(2 * time.Minute)
		if n := m.launches() - before; n != 16 || m.ahead() != 0 {
			t.Errorf("%d uploads, want 16, %s ahead of the clock", n, m.ahead())
		}
		m.want("in the end", status.StateOK)
		if until, _ := m.service.Reserved(); until.Sub(m.now()) < 5*time.Hour {
			t.Errorf("reserved until %s", until)
		}
	})
}

// A record that cannot be read at the start is waited for: its counters may have been used.
func TestRecordIsWaitedFor(t *testing.T) {
	onManagers(t, sim.Config{Seed: 210, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.settle(5 * time.Minute)
		m.kill()
		before := m.launches()
		prepare := m.prepare
		m.prepare = func() { prepare(); m.shared.fail(errNoQuorum) }
		m.start()
		m.settle(20 * time.Minute)
		if got := m.service.Status(); m.launches() != before || !warned(got, "the revision counters that were used are not known, so that nothing is published: no quorum") {
			t.Errorf("%d uploads, warnings %q", m.launches()-before, got.Warnings)
		}
		m.shared.fail(nil)
		m.settle(time.Minute)
		m.want("with the record", status.StateOK)
		if m.launches() != before {
			t.Errorf("%d uploads though nothing was due", m.launches()-before)
		}
	})
}

// The ceilings of a record: those of the time until which is reserved, not beyond the run's
// end, and always above what was used.
func TestReservation(t *testing.T) {
	ring, signer := testRing(t, 20000)
	at := func(d time.Duration) uint64 {
		n, err := signer.Revision.RevisionCounter(testRun, testRun.Add(d))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const end = (descriptor.MaxRevisionSeconds - 1) * time.Second
	other := descriptor.Period{Number: 19999, Length: 24 * time.Hour}
	for _, test := range []struct {
		what                string
		now                 time.Duration
		used, ceiling, want uint64
	}{
		{"as usual", time.Hour, at(time.Hour), 0, at(7 * time.Hour)},
		{"nothing was used", time.Hour, 0, 0, at(7 * time.Hour)},
		{"reserved for later than that", time.Hour, at(time.Hour), at(8 * time.Hour), at(8 * time.Hour)},
		{"after a predecessor's reservation", time.Hour, at(7 * time.Hour), 0, at(7*time.Hour) + room(at(7*time.Hour))},
		{"at the end of the run", 72 * time.Hour, at(70 * time.Hour), 0, at(end)},
		{"beyond it", 80 * time.Hour, at(end), 0, at(end) + room(at(end))},
		{"nearly more than is believed", time.Hour, maxStored - 5, 0, maxStored - 5},
		{"more than is believed", time.Hour, maxStored + 5, 0, maxStored + 5},
	} {
		s := &Service{env: Env{Reserve: 6 * time.Hour}, counters: counters{other: 7}}
		s.plan.Targets = []Target{{ViewTarget: ViewTarget{Ring: ring, Credential: signer}}, {ViewTarget: ViewTarget{Ring: &hsdir.Ring{Period: ring.Period.Next(), RunStart: testRun.Add(24 * time.Hour)}}}}
		if test.used > 0 {
			s.counters[ring.Period] = test.used
		}
		s.record.ceilings = counters{ring.Period: test.ceiling}
		if got := s.reservation(testRun.Add(test.now)); got[ring.Period] != test.want || got[other] != 7 || len(got) != 2 {
			t.Errorf("%s: %v, want %d", test.what, got, test.want)
		}
	}
}

// A process that is killed again and again begins above what the last one reserved each time.
// It does not come to the end of what is believed, above which nothing is published.
func TestKilledAgainAndAgain(t *testing.T) {
	ring, signer := testRing(t, 20000)
	used := uint64(0)
	for n := range 2000 {
		s := &Service{env: Env{Reserve: 6 * time.Hour}, counters: counters{ring.Period: used}}
		s.plan.Targets = []Target{{ViewTarget: ViewTarget{Ring: ring, Credential: signer}}}
		reserved := s.reservation(testRun.Add(24*time.Hour + time.Duration(n)*5*time.Second))[ring.Period]
		if reserved > maxStored || reserved < used+20*counterStep {
			t.Fatalf("after %d: %d is reserved, and %d was used of %d", n, reserved, used, uint64(maxStored))
		}
		used = reserved
	}
}

// A record that the cluster wrote again, sealed with another key or in a store that was
// restored, is the service's own: nothing is published for that, and no counter is skipped.
func TestRecordIsWrittenAgain(t *testing.T) {
	onManagers(t, sim.Config{Seed: 212, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.settle(5 * time.Minute)
		before := m.launches()
		m.rewrite()
		m.service.Reconfigure(m.configWith("another"))
		m.settle(2 * time.Minute)
		if n := m.launches() - before; n != 16 || m.ahead() != 0 {
			t.Errorf("%d uploads, want 16, %s ahead of the clock", n, m.ahead())
		}
		if until, _ := m.service.Reserved(); until.Sub(m.now()) < 5*time.Hour {
			t.Errorf("reserved until %s", until)
		}
	})
}

// At its end a service gives back what it has reserved, and waits no longer than some
// seconds for the store.
func TestReservationIsReleased(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		onManagers(t, sim.Config{Seed: 211, Relays: 30}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
			m.settle(5 * time.Minute)
			used, release := m.editions(), func() {}
			if hangs {
				release = m.shared.hang()
			}
			began := time.Now()
			m.stopService()
			if took := time.Since(began); took > endTimeout || !hangs && took > time.Second {
				t.Errorf("hangs %t: the end took %s", hangs, took)
			}
			for p, e := range used {
				if is := m.ceiling(p); is < e.Revision || is == e.Revision != !hangs {
					t.Errorf("hangs %t: %d are reserved, and %d was used", hangs, is, e.Revision)
				}
			}
			release()
		})
	}
}
