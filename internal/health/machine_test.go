package health

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

var (
	start  = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	errNot = errors.New("no")
	spec   = Spec{Kind: TCP, Interval: 10 * time.Second, FastInterval: time.Second, Timeout: 2 * time.Second, Rise: 2, Fall: 3}
)

// play has checks end one second after the other: "+" passes, "-" fails without an
// answer, "!" fails with one, "?" is without our tor; after "~" something else gets
// through; "^" passes after ten minutes.
func play(m *Machine, at time.Time, checks string) time.Time {
	for _, c := range checks {
		r := Result{Began: at, Ended: at.Add(500 * time.Millisecond), Stage: Connected}
		switch c {
		case '-':
			r.Stage, r.Err = NoPoint, errNot
		case '!':
			r.Stage, r.Err = Answered, errNot
		case ':': // an answer that comes too late
			r.Stage, r.Err = Connected, fmt.Errorf("reading: %w", context.DeadlineExceeded)
		case '?':
			r.Stage, r.Err = NoTor, errNot
		case '~':
			m.Through(at.Add(-100 * time.Millisecond))
			continue
		case '^':
			at = at.Add(10 * time.Minute)
			r.Began, r.Ended = at, at
		}
		m.Observe(r)
		at = at.Add(time.Second)
	}
	return at
}

func TestMachine(t *testing.T) {
	for _, test := range []struct {
		checks string
		want   Operating
		doubt  bool
	}{
		{"", Unchecked, false},
		{"+", Up, false},
		{"-", GoingDown, false},
		{"??", Unchecked, false},
		{"?????", Unchecked, true},
		{"+???", Up, true},
		{"+???+", Up, false},
		{"+!!!???", Down, false},
		{"+--+", Up, false},
		{"+--", GoingDown, false},
		{"+---", GoingDown, true}, // nothing else got through
		{"+-~-~-~", Down, false},
		{"-~-~-~", Down, false},
		{"+!!!", Down, false}, // our tor works, as their answers show
		{"+:::", GoingDown, true},
		{"+:~:~:~", Down, false},
		{"+!!+!!", GoingDown, false},
		{"+?!?!?!", Down, false},
		{"+-----~", GoingDown, true}, // our tor came back: one of them may be its fault
		{"+-----~+", Up, false},
		{"+!!!+", GoingUp, false},
		{"+!!!+!+", GoingUp, false},
		{"+!!!++", Up, false},
		{"+!!!++!!!++", GoingUp, false}, // held
		{"!!!++!!!++", Up, false},       // the first time it was not up before
		{"+!!!++!!!++^", Up, false},
		{"+!!!++!!!^", GoingUp, false},
		{"+!!!++!!!++^!!!++^", GoingUp, false}, // for longer
		{"+!!!++!!!++^!!!++^^", Up, false},
		{"+!!!++^^^^^^^!!!++", Up, false}, // the first is long ago
	} {
		m := NewMachine(spec, start)
		play(m, start, test.checks)
		if s := m.State(); s.Operating != test.want || s.Doubt != test.doubt {
			t.Errorf("%q: %s, doubt %v, want %s, %v", test.checks, s.Operating, s.Doubt, test.want, test.doubt)
		}
	}
}

// With no port configured, a port that never accepted says nothing about the instance.
func TestMachineAnyPort(t *testing.T) {
	anyPort := spec
	anyPort.AnyPort = true
	m := NewMachine(anyPort, start)
	at := play(m, start, "!!!!")
	if s := m.State(); s.Operating != Up || s.Failed > 0 {
		t.Errorf("before it accepted: %+v", s)
	}
	play(m, at, "+!!!")
	if s := m.State(); s.Operating != Down {
		t.Errorf("after it accepted: %+v", s)
	}
}

// Another Spec does not bring an instance back that is down.
func TestMachineWith(t *testing.T) {
	m := NewMachine(spec, start)
	at := play(m, start, "+!!!")
	slower := spec
	slower.Fall, slower.Rise = 5, 3
	m = m.With(slower)
	at = play(m, at, "++")
	if s := m.State(); !s.Out() {
		t.Errorf("%+v", s)
	}
	play(m, at, "+!!!!")
	if s := m.State(); s.Operating != GoingDown {
		t.Errorf("%+v", s)
	}
}

// An instance that comes and goes changes at most three times in any ten minutes.
func TestFlapping(t *testing.T) {
	for _, every := range []int{3, 4, 7, 20, 45, 100, 299} {
		m := NewMachine(spec, start)
		var changes []time.Time
		out := false
		for n, at := 0, start; n < 4*3600; n, at = n+1, at.Add(time.Second) {
			r := Result{Began: at, Ended: at, Stage: Connected}
			if n/every%2 == 1 {
				r.Stage, r.Err = Answered, errNot
			}
			m.Observe(r)
			s := m.State()
			if s.Out() != out {
				out = s.Out()
				changes = append(changes, at)
			}
			if len(changes) > 3 && changes[len(changes)-1].Sub(changes[len(changes)-4]) < 10*time.Minute {
				t.Fatalf("every %d s: changes at %v", every, changes[len(changes)-4:])
			}
		}
		if len(changes) < 6 {
			t.Errorf("every %d s: only %d changes", every, len(changes))
		}
	}
}

// The operator's word ends a hold-down, and what was before does not count for the next.
func TestForgive(t *testing.T) {
	m := NewMachine(spec, start)
	at := play(m, start, "+!!!++!!!++++")
	if s := m.State(); s.Operating != GoingUp || s.Held.IsZero() {
		t.Fatalf("not held: %+v", s)
	}
	m.Forgive(at)
	if s := m.State(); !s.Out() || !s.Held.IsZero() {
		t.Errorf("held, or in use without a check: %+v", s)
	}
	at = play(m, at, "++")
	if s := m.State(); s.Operating != Up {
		t.Errorf("not in use: %+v", s)
	}
	at = play(m, at, "!!!++")
	if s := m.State(); s.Out() {
		t.Errorf("held by what was forgiven: %+v", s)
	}
	at = play(m, at, "!!!+")
	if m.Forgive(at); !m.state.Out() {
		t.Errorf("in use before it passed enough checks: %+v", m.State())
	}
}

func TestMachineHeedsAgent(t *testing.T) {
	m := NewMachine(spec, start)
	at := start
	say := func(r AgentReport) State {
		at = at.Add(time.Second)
		m.Observe(Result{Began: at, Ended: at, Stage: Spoken, Report: r})
		return m.State()
	}
	if s := say(AgentReport{Weighted: true, Weight: 0.5}); s.Weight != 0.5 || s.Operating != Up || s.Admin != Ready {
		t.Errorf("%+v", s)
	}
	if s := say(AgentReport{Operating: Down, Text: "disk full"}); s.Weight != 0.5 || s.Operating != Down || s.Text != "disk full" {
		t.Errorf("%+v", s)
	}
	if s := say(AgentReport{Admin: Drain}); s.Operating != Down || s.Admin != Drain {
		t.Errorf("only the agent can undo what it said: %+v", s)
	}
	say(AgentReport{Operating: Up, Admin: Ready})
	if s := say(AgentReport{}); s.Operating != Up || s.Admin != Ready {
		t.Errorf("%+v", s)
	}
	if s := say(AgentReport{Weighted: true}); s.Weight != 0 {
		t.Errorf("no visitors at once: %+v", s)
	}
	if s := say(AgentReport{Weighted: true, Weight: 1}); s.Weight != 1 {
		t.Errorf("visitors again at once: %+v", s)
	}
	changes := 0
	for n := range 3600 { // a load that goes up and down
		before := m.State().Weight
		if s := say(AgentReport{Weighted: true, Weight: 0.55 + 0.45*math.Sin(float64(n)/200)}); s.Weight != before {
			changes++
		}
	}
	if changes < 5 || changes > 12 {
		t.Errorf("%d changes in an hour", changes)
	}
}

// A point that fails while others work is dead, and gets another chance later.
func TestMachineFindsDeadPoint(t *testing.T) {
	a, b := descriptor.Fingerprint{1}, descriptor.Fingerprint{2}
	m := NewMachine(spec, start)
	at := start
	visit := func(stage Stage, points ...PointResult) []descriptor.Fingerprint {
		at = at.Add(time.Minute)
		r := Result{Began: at, Ended: at, Stage: stage, Fresh: true, Points: points}
		if stage < Answered {
			r.Err = errNot
		}
		m.Observe(r)
		return m.State().Dead
	}
	if dead := visit(Connected, PointResult{a, false, false}, PointResult{b, true, true}); len(dead) != 0 {
		t.Errorf("after one failure: %v", dead)
	}
	if dead := visit(Connected, PointResult{a, true, false}, PointResult{b, true, true}); !slices.Equal(dead, []descriptor.Fingerprint{a}) {
		t.Errorf("after two: %v", dead)
	}
	if dead := visit(Connected); !slices.Equal(dead, []descriptor.Fingerprint{a}) {
		t.Errorf("after a check on a kept circuit: %v", dead)
	}
	if dead := visit(Connected, PointResult{a, true, true}); !slices.Equal(dead, []descriptor.Fingerprint{a}) {
		t.Errorf("after it worked, too soon: %v", dead)
	}
	at = at.Add(10 * time.Minute)
	if dead := visit(Connected, PointResult{a, true, true}); len(dead) != 0 {
		t.Errorf("after it worked: %v", dead)
	}
	visit(Introduced, PointResult{a, false, false}, PointResult{b, true, false})
	if dead := visit(Introduced, PointResult{b, true, false}); len(dead) != 0 {
		t.Errorf("when none works: %v", dead)
	}
	visit(Introduced, PointResult{a, true, false})
	visit(Introduced, PointResult{a, true, false})
	visit(Introduced, PointResult{b, true, false})
	if dead := visit(Connected, PointResult{b, true, true}); len(dead) != 0 {
		t.Errorf("after a time in which none worked: %v", dead)
	}
	at = at.Add(time.Hour)
	visit(Connected)
	if dead := visit(Connected); len(dead) != 0 {
		t.Errorf("after an hour: %v", dead)
	}
}

// The points of an instance that was frozen for a while are not dead when it is back.
func TestMachineForgivesPoints(t *testing.T) {
	a, b, c := descriptor.Fingerprint{1}, descriptor.Fingerprint{2}, descriptor.Fingerprint{3}
	m := NewMachine(spec, start)
	for n, relay := range []descriptor.Fingerprint{a, b, c, a, b, c, a} {
		at := start.Add(time.Duration(n) * time.Second)
		m.Observe(Result{Began: at, Ended: at, Stage: Introduced, Err: errNot, Points: []PointResult{{relay, true, false}}})
	}
	at := start.Add(time.Minute)
	m.Observe(Result{Began: at, Ended: at, Stage: Connected, Points: []PointResult{{c, true, true}}})
	if dead := m.State().Dead; len(dead) != 0 {
		t.Errorf("dead: %v", dead)
	}
}

// That checks cannot be made is known, and changes nothing else.
func TestMachineUnmade(t *testing.T) {
	m := NewMachine(spec, start)
	at := play(m, start, "+??")
	if s := m.State(); s.Unmade == nil || s.Operating != Up || s.Last.Err != nil {
		t.Errorf("%+v", s)
	}
	play(m, at, "+")
	if s := m.State(); s.Unmade != nil {
		t.Errorf("%+v", s)
	}
}

func TestTakeOut(t *testing.T) {
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	fine, down := Standing{}, func(n int) Standing { return Standing{Out: true, Since: at(n)} }
	held := func(n int) Standing { return Standing{Out: true, Passing: true, Since: at(n)} }
	for _, test := range []struct {
		list  []Standing
		want  []bool
		panic bool
	}{
		{nil, []bool{}, false},
		{[]Standing{down(1)}, []bool{false}, true},
		{[]Standing{fine, down(1)}, []bool{false, true}, false},
		{[]Standing{down(2), down(1)}, []bool{false, true}, true},
		{[]Standing{down(2), down(1), fine}, []bool{false, true, false}, true},
		{[]Standing{held(1), down(2), fine}, []bool{false, true, false}, false},
		{[]Standing{held(1), held(2), held(3), fine}, []bool{true, true, false, false}, false},
		{[]Standing{{Doubt: true}, fine, fine}, []bool{false, false, false}, true},
		{[]Standing{{Doubt: true}, down(1), fine}, []bool{false, true, false}, true},
		{[]Standing{down(4), down(3), down(2), down(1)}, []bool{false, false, true, true}, true},
	} {
		if out, panic := TakeOut(test.list); !slices.Equal(out, test.want) || panic != test.panic {
			t.Errorf("%+v: %v, panic %v, want %v, %v", test.list, out, panic, test.want, test.panic)
		}
	}
}
