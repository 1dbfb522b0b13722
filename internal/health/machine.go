package health

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// State is what checks have found about an instance. It is immutable.
type State struct {
	Operating Operating
	Since     time.Time // of Operating
	OutSince  time.Time // when it last went down from being used
	// Doubt says that enough checks failed for the instance to be down, or were not
	// even made, and that nothing else got through our tor either: the tor is as likely
	// a cause, and the instance stays in use.
	Doubt bool
	// Held is until when an instance that passes its checks stays out, since it was
	// down too often; zero if it does not.
	Held time.Time

	Last  Result // the last check that said something about the instance
	Fresh Result // the last of them that had circuits of its own
	// Failing is when a check last failed.
	Failing time.Time
	Unmade  error  // why no check could be made since; nil if one could
	Passed  uint64 // checks since the start
	Failed  uint64

	// What the agent said last.
	Admin  Admin   // Ready unless it said otherwise
	Weight float64 // factor of the configured weight
	Load   Load
	Text   string

	// Dead are the relays of introduction points that fail while others of the
	// instance work.
	Dead []descriptor.Fingerprint
}

// Out reports whether the instance should get no visitors.
func (s *State) Out() bool { return s.Operating == Down || s.Operating == GoingUp }

// How often an instance must fall for it to be held down, and for how long: the
// second fall within flapWindow holds it for holdFirst, each further one for twice as
// long. So a flapping instance changes a descriptor three times in ten minutes at most.
const (
	flapWindow = time.Hour
	holdFirst  = 10 * time.Minute
	holdMax    = time.Hour
)

// A point is dead after deadAfter failures in a row, and gets another chance when it was
// not tried for deadFor: the instance may have another point at the relay by then.
const (
	deadAfter = 2
	deadFor   = 30 * time.Minute
)

// Machine judges one instance by the results of its checks, in their order.
type Machine struct {
	spec     Spec
	state    State
	passes   int         // in a row
	fails    int         // in a row
	blind    int         // checks in a row that our own tor did not make
	sure     int         // of the fails, those during which something else got through our tor
	unsure   bool        // the last fail is not one of these yet
	began    time.Time   // of the last fail
	through  time.Time   // when something else last got through our tor
	falls    []time.Time // within flapWindow before the last
	agent    bool        // the agent says that it is down
	accepted bool        // the port accepted a connection once
	weighed  time.Time   // when the agent's weight last changed
	points   map[descriptor.Fingerprint]trial
}

// How often an agent may change the weight, and by what share of it at least.
const (
	weighEvery = 5 * time.Minute
	weighStep  = 0.2
)

// trial is what happened at one introduction point.
type trial struct {
	fails  int  // in a row, with others of the instance working in between
	unsure bool // it failed, and nothing else worked since
	at     time.Time
	dead   time.Time // since when it is; zero if it is not
}

// NewMachine returns a machine for checks by a Spec. Nothing is known yet, and the
// instance is used.
func NewMachine(spec Spec, now time.Time) *Machine {
	return &Machine{
		spec: spec, points: map[descriptor.Fingerprint]trial{},
		state: State{Operating: Unchecked, Since: now, Admin: Ready, Weight: 1},
	}
}

// With returns a machine that knows the same, for checks by another Spec from now on.
func (m *Machine) With(spec Spec) *Machine {
	next := *m
	next.spec, next.points = spec, maps.Clone(m.points)
	next.passes, next.fails, next.sure, next.unsure = 0, 0, 0, false
	return &next
}

// State returns what is known.
func (m *Machine) State() State { return m.state }

// Observe takes the result of a check.
func (m *Machine) Observe(r Result) {
	if r.Stage == NoTor { // it says nothing about the instance
		m.blind++
		m.state.Unmade = r.Err
		m.judge(r.Ended)
		return
	}
	m.blind, m.state.Unmade = 0, nil
	if r.Stage >= Connected {
		m.accepted = true
	} else if m.spec.Kind == TCP && m.spec.AnyPort && r.Stage == Answered && !m.accepted {
		r.Err = nil // nobody said that something listens there
	}
	m.state.Last = r
	if r.Fresh {
		m.state.Fresh = r
	}
	m.heed(r.Ended, r.Report)
	m.trace(r)
	if r.Err == nil {
		m.state.Passed++
		m.passes, m.fails, m.sure, m.unsure = m.passes+1, 0, 0, false
	} else {
		m.state.Failed++
		m.state.Failing = r.Ended
		m.passes, m.fails = 0, m.fails+1
		m.began, m.unsure = r.Began, true
		if r.Stage >= Answered && !errors.Is(r.Err, context.DeadlineExceeded) {
			m.through = r.Ended // it was answered, through our tor, in time
		}
	}
	m.judge(r.Ended)
}

// Through tells the machine that something else got through our tor, by circuits of
// its own, at the given moment.
func (m *Machine) Through(at time.Time) {
	if at.After(m.through) {
		m.through = at
	}
	m.judge(at)
}

// Forgive ends a hold-down, and forgets how often the instance fell: the operator says
// that it is sound. One that is out is used when it has passed Rise checks from then on.
func (m *Machine) Forgive(now time.Time) {
	m.falls = nil
	if m.state.Out() {
		m.passes = 0
	}
	m.judge(now)
}

// judge derives the operating state. A failed check counts if something else got
// through since it began, and before the next: when our own tor comes back after a
// while, one failure at most is counted wrongly.
func (m *Machine) judge(now time.Time) {
	if m.unsure && !m.through.Before(m.began) {
		m.sure, m.unsure = m.sure+1, false
	}
	enough := m.sure >= m.spec.Fall
	m.state.Doubt = m.fails-m.sure+m.blind >= m.spec.Fall && !enough && !m.state.Out() && !m.agent
	is := m.state.Operating
	switch {
	case m.agent, enough:
		m.fall(now)
		is = Down
	case m.state.Out() && m.fails > 0:
		is = Down
	case m.state.Out() && (m.passes < m.spec.Rise || now.Before(m.held())):
		if m.passes > 0 {
			is = GoingUp
		}
	case m.fails > 0:
		is = GoingDown
	case m.passes > 0 || m.state.Out():
		is = Up
	}
	m.state.Held = time.Time{}
	if held := m.held(); is == GoingUp && now.Before(held) {
		m.state.Held = held
	}
	if is != m.state.Operating {
		m.state.Operating, m.state.Since = is, now
	}
}

// fall records that the instance goes down now, if it was not.
func (m *Machine) fall(now time.Time) {
	if m.state.Out() {
		return
	}
	m.state.OutSince = now
	if m.state.Passed == 0 {
		return // it was never up
	}
	m.falls = slices.DeleteFunc(m.falls, func(at time.Time) bool { return now.Sub(at) > flapWindow })
	m.falls = append(m.falls, now)
}

// held returns until when the instance stays out, whatever checks say.
func (m *Machine) held() time.Time {
	if len(m.falls) < 2 {
		return time.Time{}
	}
	hold := holdFirst
	for n := 2; n < len(m.falls) && hold < holdMax; n++ {
		hold *= 2
	}
	return m.falls[len(m.falls)-1].Add(min(hold, holdMax))
}

// heed takes what the agent said. What it does not mention stays.
func (m *Machine) heed(at time.Time, r AgentReport) {
	switch r.Operating {
	case Down:
		m.agent, m.state.Text = true, r.Text
	case Up:
		m.agent, m.state.Text = false, r.Text
	}
	if r.Admin != "" {
		m.state.Admin = r.Admin
	}
	if r.Loaded {
		m.state.Load = Load{r.Load, at.Add(LoadKept)}
	}
	if r.Weighted && m.reweighs(at, r.Weight) {
		m.state.Weight, m.weighed = r.Weight, at
	}
}

// reweighs reports whether an agent's weight is taken over. Each change costs uploads to all
// HSDirs, and agents that follow a load say another weight each time: so small changes
// do not count, and greater ones wait, except to and from zero.
func (m *Machine) reweighs(at time.Time, weight float64) bool {
	is := m.state.Weight
	if is == 0 || weight == 0 {
		return is != weight
	}
	return at.Sub(m.weighed) >= weighEvery && math.Abs(weight-is) >= weighStep*max(weight, is)
}

// trace judges introduction points. A failure counts when the instance is next reached
// through another one: as long as none works, the instance is judged as a whole.
func (m *Machine) trace(r Result) {
	for _, p := range r.Points {
		t := m.points[p.Relay]
		if t.unsure, t.at = true, r.Ended; p.Answered {
			t.fails, t.unsure = 0, false
		}
		if p.Answered && r.Ended.Sub(t.dead) >= holdFirst { // one that comes and goes stays out
			t.dead = time.Time{}
		}
		m.points[p.Relay] = t
	}
	maps.DeleteFunc(m.points, func(_ descriptor.Fingerprint, t trial) bool { return r.Ended.Sub(t.at) > deadFor })
	var dead []descriptor.Fingerprint
	if r.Stage >= Answered {
		for relay, t := range m.points {
			if t.unsure {
				t.fails, t.unsure = t.fails+1, false
			}
			if t.fails >= deadAfter && t.dead.IsZero() {
				t.dead = r.Ended
			}
			if !t.dead.IsZero() {
				dead = append(dead, relay)
			}
			m.points[relay] = t
		}
		slices.SortFunc(dead, func(a, b descriptor.Fingerprint) int { return slices.Compare(a[:], b[:]) })
		m.state.Dead = dead
	}
}

// Next returns how long after the beginning of the last check the next begins. random is
// from 0 to 1.
func (m *Machine) Next(random float64) time.Duration {
	every := m.spec.Interval
	recovering := m.state.Operating == GoingUp && m.state.Held.IsZero()
	if (m.Suspected() || recovering) && !m.state.Doubt { // a tor that is overloaded gets no more to do
		every = m.spec.FastInterval
	}
	return time.Duration(float64(every) * (1 + m.spec.Jitter*(2*random-1)))
}

// Suspected reports whether the last checks failed, and not enough of them to tell.
func (m *Machine) Suspected() bool { return m.state.Operating == GoingDown }
