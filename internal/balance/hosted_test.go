package balance

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
)

// hostedAt is the view of a hosted service at a time of the day of testNow, whose secret is
// told apart by seed.
func hostedAt(clock time.Duration, seed byte, members ...*member) View {
	v := wideView(20, members...)
	v.Config.Hosted = true
	midnight := testNow.Truncate(24 * time.Hour)
	v.Now, v.offset = midnight.Add(clock), 12*time.Hour
	v.valid = [2]time.Time{v.Now.Truncate(time.Hour), v.Now.Truncate(time.Hour).Add(3 * time.Hour)}
	run := v.Now.Truncate(24 * time.Hour)
	of := descriptor.PeriodAt(run, 24*time.Hour, v.offset)
	if v.Now.Sub(run) >= v.offset {
		v.Current = hsdir.SecondRole
	}
	for role := range v.Targets {
		t := &v.Targets[role]
		t.Ring = &hsdir.Ring{Period: of, RunStart: run.Add(time.Duration(role-1) * 24 * time.Hour)}
		t.Keys.Period, of = of, of.Next()
		t.Credential = &credential.Credential{Seed: [32]byte{seed, byte(role)}, Expires: v.Now.Add(70 * time.Hour)}
		t.Slots = publicSlots(byte(of.Number * 8))
	}
	for n := range v.Instances.Backends {
		b := v.Instances.Backends[n]
		b.Heard, b.Renewed, b.Seen, b.Due = v.Now, v.Now, v.Now, v.Now.Add(time.Minute)
	}
	return v
}

// keep has v use the credentials of other views.
func (v View) keep(s State) View {
	for role := range v.Targets {
		if e := s.Editions[v.Targets[role].Keys.Period]; e != nil {
			v.Targets[role].Credential = e.Credential
		}
	}
	return v
}

func TestHostedRefresh(t *testing.T) {
	for reason, shortest := range map[Reason]time.Duration{ReasonRefresh: 130 * time.Minute, ReasonChanged: time.Hour, ReasonNew: time.Hour} {
		target := Target{ViewTarget: ViewTarget{Credential: testCredential}, hosted: true, Reason: reason}
		least, most := 24*time.Hour, time.Duration(0)
		for revision := range uint64(1000) {
			after := target.refreshes(revision)
			least, most = min(least, after), max(most, after)
		}
		if least < shortest || least > shortest+time.Minute || most > 150*time.Minute || most < 149*time.Minute {
			t.Errorf("%s: refreshed after %s to %s", reason, least, most)
		}
	}
}

// The descriptor of the next period is made when its time has come, the current one at once.
func TestHostedRotation(t *testing.T) {
	early, late := 0, 0
	for seed := range byte(100) {
		view := func(clock time.Duration) View { return hostedAt(clock, seed, testMember("a", 1, 2, 3)) }
		at := view(time.Minute).rotation(&Target{ViewTarget: view(time.Minute).Targets[1]})
		clock := at.Sub(testNow.Truncate(24 * time.Hour))
		if clock < 0 || clock > 10*time.Hour {
			t.Fatalf("made at %s", clock)
		}
		if clock < 2*time.Hour {
			early++
		}
		if clock > 8*time.Hour {
			late++
		}
		var s State
		p := s.carryOut(view(clock - time.Second))
		if p.Targets[0].Urgency != hsdir.UrgencyNew || len(s.Editions) != 1 || p.Targets[1].Held == "" || p.Next.After(at) {
			t.Fatalf("before %s: %d made, the second is held, as %q", clock, len(s.Editions), p.Targets[1].Held)
		}
		if p = s.carryOut(view(clock).keep(s)); p.Targets[1].Reason != ReasonNew || p.Targets[1].Urgency != hsdir.UrgencyRotation || len(s.Editions) != 2 {
			t.Fatalf("at %s: %d made, %+v", clock, len(s.Editions), p.Targets[1])
		}
	}
	if early < 5 || late < 5 {
		t.Errorf("of 100 services, %d are early and %d late", early, late)
	}
}

func TestHostedGathers(t *testing.T) {
	both := func() []*member { return []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)} }
	for _, test := range []struct {
		what    string
		change  func(m []*member)
		within  time.Duration
		urgency hsdir.Urgency
	}{
		{"a point of six is another", func(m []*member) { m[0].Descriptor.IntroductionPoints[2] = testPoint(9) }, 10 * time.Minute, hsdir.UrgencyPointsDead},
		{"half of them are others", func(m []*member) { *m[1] = *testMember("b", 7, 8, 9) }, 0, hsdir.UrgencyPointsDead},
		{"all are", func(m []*member) { *m[0], *m[1] = *testMember("a", 7, 8, 9), *testMember("b", 10, 11, 12) }, 0, hsdir.UrgencyNoLivePoint},
		{"a point of six is gone", func(m []*member) {
			m[0].Descriptor.IntroductionPoints = m[0].Descriptor.IntroductionPoints[:2]
		}, 10 * time.Minute, hsdir.UrgencyPointsDead},
	} {
		t.Run(test.what, func(t *testing.T) {
			var s State
			s.carryOut(hostedAt(8*time.Hour, 1, both()...))
			s.carryOut(hostedAt(10*time.Hour, 1, both()...).keep(s)) // the next period's, if it was not yet
			members := both()
			test.change(members)
			var noticed, made time.Duration
			for clock := 10*time.Hour + time.Second; made == 0 && clock < 11*time.Hour; clock += time.Second {
				if noticed == 0 {
					noticed = clock
				}
				v := hostedAt(clock, 1, members...).keep(s)
				for _, m := range members {
					m.adopt(v.Now)
				}
				for _, e := range s.Editions {
					e.Refresh = v.Now.Add(time.Hour)
				}
				p := s.carryOut(v)
				if p.Targets[1].Held == "" {
					t.Fatalf("the next period's descriptor is made as well: %+v", p.Targets[1])
				}
				if p.Targets[0].Held == "" {
					made = clock
					if p.Targets[0].Urgency != test.urgency {
						t.Errorf("urgency %d, want %d", p.Targets[0].Urgency, test.urgency)
					}
				}
			}
			if took := made - noticed; took > test.within || took > 0 != (test.within > 0) {
				t.Errorf("made after %s, want up to %s", took, test.within)
			}
		})
	}
}

// When the period begins, instances show other points, and those published live on.
func TestHostedPeriodBegins(t *testing.T) {
	before := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)}
	var s State
	s.carryOut(hostedAt(9*time.Hour, 1, before...))
	s.carryOut(hostedAt(10*time.Hour+time.Second, 1, before...).keep(s))
	after := []*member{testMember("a", 7, 8, 9), testMember("b", 10, 11, 12)}
	for clock := 12 * time.Hour; clock < 14*time.Hour; clock += time.Minute {
		v := hostedAt(clock, 1, after...).keep(s)
		for n, m := range after {
			m.Period = v.Targets[v.Current].Keys.Period
			v.Instances.Backends[n] = m.Backend
		}
		for _, e := range s.Editions {
			e.Refresh = v.Now.Add(time.Hour)
		}
		p := s.carryOut(v)
		for _, target := range p.Targets {
			if target.Held == "" && target.Reason != "" {
				if target.Urgency != hsdir.UrgencyRotation || clock == 12*time.Hour {
					t.Errorf("at %s: %s with urgency %d", clock, target.Reason, target.Urgency)
				}
			}
		}
	}
	for p, e := range s.Editions {
		if e.slots[0].holding.IntroductionPoints[0].AuthKey[0] < 7 {
			t.Errorf("period %d: two hours later it has the points of before", p.Number)
		}
	}
}

// Points that instances show no more end unseen. Before more than a third of those that are
// published may have, services go over to the others, and no sooner for fewer.
func TestHostedPointsMayEnd(t *testing.T) {
	for young, want := range map[byte]bool{0: true, 3: true, 4: false, 6: false} {
		latest := time.Duration(0)
		for seed := range byte(20) {
			members := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)}
			var s State
			at := func(clock time.Duration) Plan {
				v := hostedAt(clock, seed, members...).keep(s)
				for n, m := range members {
					m.Period = v.Targets[v.Current].Keys.Period
					v.Instances.Backends[n] = m.Backend
				}
				for _, e := range s.Editions {
					e.Refresh = v.Now.Add(time.Hour)
				}
				return s.carryOut(v)
			}
			dated := func(m *member, clock time.Duration) { m.adopt(testNow.Truncate(24 * time.Hour).Add(clock)) }
			// At 13:00 those first seen at 19:00 are 18 hours old.
			for n, m := range members {
				m.Descriptor.IntroductionPoints = m.Descriptor.IntroductionPoints[:3-min(3, max(0, int(young)-3*n))]
				dated(m, -5*time.Hour)
				m.Descriptor = testMember(m.Name, byte(1+3*n), byte(2+3*n), byte(3+3*n)).Descriptor
				dated(m, 9*time.Hour)
			}
			at(9 * time.Hour)
			at(10*time.Hour + time.Second)
			members = []*member{testMember("a", 7, 8, 9), testMember("b", 10, 11, 12)}
			for clock := 12 * time.Hour; clock < 14*time.Hour; clock += time.Minute {
				at(clock)
				e := s.Editions[hostedAt(clock, seed).Targets[hsdir.SecondRole].Keys.Period]
				if e.slots[0].holding.IntroductionPoints[0].AuthKey[0] >= 7 {
					latest = max(latest, clock)
					break
				}
			}
		}
		if got := latest <= 13*time.Hour; latest == 0 || got != want {
			t.Errorf("%d of six points are young: the last of 20 services went over at %s", young, latest)
		}
	}
}

// After a restart a service goes on from what HSDirs have.
func TestHostedRestart(t *testing.T) {
	members := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)}
	v := hostedAt(9*time.Hour, 1, members...)
	stored := func(ago time.Duration, points ...byte) *past {
		h := &holding{Contents: &descriptor.Contents{}}
		for _, n := range points {
			h.IntroductionPoints = append(h.IntroductionPoints, testPoint(n))
		}
		return &past{state.Made{Built: v.Now.Add(-ago), Refresh: v.Now.Add(140*time.Minute - ago)}, []place{{holding: h}}}
	}
	for _, test := range []struct {
		what    string
		before  *past
		held    bool
		urgency hsdir.Urgency
	}{
		{"nothing changed", stored(time.Hour, 1, 2, 3, 4, 5, 6), true, hsdir.UrgencyRefresh},
		{"a point is another", stored(time.Hour, 1, 2, 3, 4, 5, 9), true, hsdir.UrgencyRefresh},
		{"it is overdue", stored(150*time.Minute, 1, 2, 3, 4, 5, 6), false, hsdir.UrgencyRefresh},
		{"HSDirs dropped it", stored(181*time.Minute, 1, 2, 3, 4, 5, 6), false, hsdir.UrgencyNew},
		{"an instance restarted", stored(time.Hour, 1, 2, 3, 7, 8, 9), false, hsdir.UrgencyPointsDead},
		{"both did", stored(time.Hour, 7, 8, 9, 10, 11, 12), false, hsdir.UrgencyNoLivePoint},
		{"nothing is stored", nil, false, hsdir.UrgencyNew},
	} {
		s := State{Before: map[descriptor.Period]*past{}}
		if test.before != nil {
			s.Before[v.Targets[0].Keys.Period] = test.before
		}
		if got := makePlan(v, s).Targets[0]; got.Held != "" != test.held || got.Urgency != test.urgency {
			t.Errorf("%s: held %q, urgency %d, want held %t, urgency %d", test.what, got.Held, got.Urgency, test.held, test.urgency)
		}
	}
}

// A hosted service that goes on from what HSDirs have makes nothing of instances that nobody
// has seen, until HSDirs are about to drop that.
func TestHostedIsNotSeen(t *testing.T) {
	members := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)}
	v := hostedAt(9*time.Hour, 1, members...)
	for n := range v.Instances.Backends {
		v.Instances.Backends[n].Heard = time.Time{}
	}
	h := &holding{Contents: &descriptor.Contents{}}
	for n := range byte(6) {
		h.IntroductionPoints = append(h.IntroductionPoints, testPoint(n+1))
	}
	for ago, held := range map[time.Duration]bool{149 * time.Minute: true, 151 * time.Minute: false} {
		b := &past{state.Made{Built: v.Now.Add(-ago), Refresh: v.Now.Add(-time.Minute)}, []place{{holding: h}}}
		got := makePlan(v, State{Before: map[descriptor.Period]*past{v.Targets[0].Keys.Period: b}}).Targets[0]
		if got.Held != "" != held || got.Gathers {
			t.Errorf("built %s ago: held %q", ago, got.Held)
		}
	}
}

// BenchmarkHostedPlan is what one of thousands of services plans when its instances may
// have changed, and nothing has.
func BenchmarkHostedPlan(b *testing.B) {
	v := hostedAt(13*time.Hour, 1, testMember("a", 1, 2, 3), testMember("b", 4, 5, 6))
	first := makePlan(v, State{})
	s := State{Editions: map[descriptor.Period]*Edition{}, Published: first.Chosen}
	for n := range first.Targets {
		t := &first.Targets[n]
		s.Editions[t.Keys.Period] = newEdition(v.Now, t, nil, 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := makePlan(v, s); p.Targets[v.Current].Reason != "" {
			b.Fatalf("it makes an edition: %s", p.Targets[v.Current].Reason)
		}
	}
}
