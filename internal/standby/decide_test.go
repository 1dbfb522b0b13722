package standby

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

var (
	noon   = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	period = descriptor.Period{Number: 20782, Length: 24 * time.Hour}
)

// step is one reading of a story: what it shows, and what follows.
type step struct {
	after time.Duration // the one before
	set   func(*View)   // nil: the descriptor is there and was made a minute before the story
	want  Action
	next  time.Duration // to the next reading; 0: not checked
	full  bool
	why   Reason
	alarm string // a part of it
}

// The views that steps set.

func found(age time.Duration) func(*View) {
	return func(v *View) { v.Made = v.Now.Add(-age) }
}

func full(of func(*View)) func(*View) {
	return func(v *View) {
		if of != nil {
			of(v)
		}
		v.Read.Full = true
	}
}

func missing(v *View) { v.Read.Found, v.Read.Missing = false, true }

func blind(v *View) { v.Read.Found, v.Read.Most = false, false }

func unmet(v *View) { v.Points.Live = 0 }

func and(of ...func(*View)) func(*View) {
	return func(v *View) {
		for _, set := range of {
			set(v)
		}
	}
}

func heard(v *View) { v.Beats, v.Beat = true, Beat{Heard: v.Now, Fit: true} }

func unfit(v *View) { v.Beats, v.Beat = true, Beat{Heard: v.Now} }

func mute(v *View) { v.Beats, v.Beat = true, Beat{Heard: v.Now.Add(-time.Hour), Fit: true} }

func few(v *View) { v.Read.Most = false }

const everyFive = 5 * time.Minute

func TestDecide(t *testing.T) {
	for name, story := range map[string][]step{
		"all is well": {
			{want: StandBy, next: everyFive}, {after: everyFive, want: StandBy, next: everyFive},
		},
		"missing twice": {
			{}, {after: everyFive, set: missing, next: time.Minute, full: true},
			{after: time.Minute, set: full(missing), want: TakeOver, why: ReasonMissing},
			{after: everyFive, set: found(time.Minute), want: Publish},
		},
		"missing once, at the HSDirs that were asked": {
			{}, {after: everyFive, set: missing, next: time.Minute, full: true},
			{after: time.Minute, set: full(nil), next: everyFive},
			{after: everyFive, set: missing, next: time.Minute, full: true},
		},
		"missing, and then too few answer": {
			{}, {after: everyFive, set: missing, next: time.Minute, full: true},
			{after: time.Minute, set: full(blind), next: time.Minute, full: true},
			{after: time.Minute, set: full(missing), want: TakeOver, why: ReasonMissing},
		},
		"nothing was ever seen": {
			{set: missing, next: everyFive, full: true},
			{after: everyFive, set: full(missing), want: TakeOver, why: ReasonMissing},
		},
		"missing while a machine says it is well": {
			{set: heard}, {after: everyFive, set: and(heard, missing), next: everyFive},
			{after: everyFive, set: and(heard, missing), next: everyFive, full: true},
			{after: everyFive, set: full(and(heard, missing)), want: TakeOver, why: ReasonMissing},
		},
		"missing while a machine says it is not": {
			{set: heard}, {after: everyFive, set: and(unfit, missing), next: time.Minute, full: true},
			{after: time.Minute, set: full(and(unfit, missing)), want: TakeOver, why: ReasonMissing},
		},
		"blind": {
			{}, {after: everyFive, set: blind, next: everyFive}, {after: everyFive, set: blind}, {after: everyFive, set: blind},
			{after: everyFive, set: blind, alarm: "too few HSDirs"}, {after: 10 * time.Hour, set: blind},
		},
		"silence": {
			{set: found(124 * time.Minute), next: everyFive}, {after: everyFive, set: found(129 * time.Minute), next: time.Minute, full: true},
			{after: time.Minute, set: full(found(130 * time.Minute)), want: TakeOver, why: ReasonSilence},
		},
		"silence that one reading shows, and not all HSDirs": {
			{set: found(131 * time.Minute), next: 1, full: true}, {after: time.Second, set: full(found(10 * time.Minute)), next: everyFive},
		},
		"silence that too few HSDirs show": {
			{set: found(131 * time.Minute), next: 1, full: true}, {after: time.Second, set: full(and(found(131*time.Minute), few)), next: time.Minute, full: true},
		},
		"silence while a machine says it is well": {
			{set: full(and(heard, found(139*time.Minute))), next: time.Minute, full: true},
			{after: time.Minute, set: full(and(heard, found(140*time.Minute))), want: TakeOver, why: ReasonSilence},
		},
		"silence of a hosted service": {
			{set: full(and(hosted, found(159*time.Minute))), next: time.Minute, full: true},
			{after: time.Minute, set: full(and(hosted, found(160*time.Minute))), want: TakeOver, why: ReasonSilence},
		},
		"unmet": {
			{}, {after: everyFive, set: unmet, next: everyFive}, {after: everyFive, set: unmet, next: everyFive, full: true},
			{after: everyFive, set: full(unmet), want: TakeOver, why: ReasonUnmet},
		},
		"unmet, with a silent heartbeat": {
			{}, {after: everyFive, set: and(mute, unmet), next: everyFive, full: true},
			{after: everyFive, set: full(and(mute, unmet)), want: TakeOver, why: ReasonUnmet},
		},
		"unmet, until the active machine notices": {
			{}, {after: everyFive, set: unmet}, {after: everyFive, set: unmet}, {after: everyFive}, {after: everyFive, set: unmet}, {after: everyFive, set: full(unmet)},
		},
		"unmet, and it slept meanwhile": {
			{}, {after: everyFive, set: unmet}, {after: 6 * time.Hour, set: full(unmet)},
		},
		"missing, and it slept meanwhile": {
			{}, {after: everyFive, set: missing}, {after: 6 * time.Hour, set: full(missing), next: time.Minute, full: true},
		},
		"missing, and the clock was set back": {
			{}, {after: everyFive, set: missing}, {after: -time.Hour, set: full(missing), next: time.Minute, full: true},
		},
		"the period before is about to be dropped": {
			{set: and(mute, before(164*time.Minute)), next: time.Minute, full: true}, {after: time.Minute, set: full(and(mute, before(165*time.Minute))), want: TakeOver, why: ReasonBefore},
		},
		"the period before is about to be dropped, as far as anybody knows": {
			{set: full(before(170 * time.Minute))}, {after: time.Minute, set: full(and(heard, before(170*time.Minute)))},
			{after: time.Minute, set: full(and(mute, before(170*time.Minute), found(time.Minute)))},
		},
		"the next period, of which nobody knows": {
			{set: and(heard, turns)}, {after: 74 * time.Minute, set: and(mute, turns, found(80*time.Minute)), next: time.Minute, full: true},
			{after: time.Minute, set: full(and(mute, turns, found(80*time.Minute))), want: TakeOver, why: ReasonNext},
		},
		"the next period, while a machine is well, or was lately, or was never heard": {
			{set: full(and(unfit, turns))}, {after: 80 * time.Minute, set: full(and(unfit, turns, found(80*time.Minute)))},
			{set: full(and(heard, turns, found(80*time.Minute)))}, {set: full(and(mute, turns, found(40*time.Minute)))},
		},
		"withdrawn": {
			{set: withdrawn, alarm: "withdrawn"}, {after: everyFive, set: full(and(withdrawn, missing))}, {after: time.Minute, set: full(and(withdrawn, missing))},
		},
		"no custody": {
			{}, {after: everyFive, set: and(unable, missing), alarm: "could not take over"}, {after: everyFive, set: full(and(unable, missing))},
			{after: everyFive, set: full(missing), want: TakeOver, why: ReasonMissing},
		},
		"taken over, in vain": {
			{}, {after: everyFive, set: full(found(130 * time.Minute)), want: TakeOver, why: ReasonSilence},
			{after: everyFive, set: missing, want: Publish}, {after: everyFive, set: missing, want: Publish},
			{after: everyFive, set: missing, want: Publish}, {after: everyFive, set: missing, want: Publish, alarm: "has taken over, and still"},
		},
		"the active machine is back": {
			{}, {after: everyFive, set: full(found(130 * time.Minute)), want: TakeOver, why: ReasonSilence},
			{after: everyFive, set: and(own(200), found(time.Minute)), want: Publish},
			{after: everyFive, set: counter(201), want: Yield, why: ReasonActive},
			{after: everyFive, set: counter(201), want: StandBy, next: everyFive},
		},
		"an HSDir repeats what was published before": {
			{}, {after: everyFive, set: full(found(130 * time.Minute)), want: TakeOver, why: ReasonSilence},
			{after: everyFive, set: found(135 * time.Minute), want: Publish}, {after: everyFive, set: own(200), want: Publish},
		},
		"another period, of which the active machine made one before": {
			{}, {after: everyFive, set: full(found(130 * time.Minute)), want: TakeOver, why: ReasonSilence},
			{after: everyFive, set: and(next, counter(500), found(140*time.Minute)), want: Publish},
			{after: everyFive, set: and(next, counter(501), found(time.Minute)), want: Yield, why: ReasonActive},
		},
		"started again": {
			{set: own(200), want: TakeOver, why: ReasonResumed},
		},
		"started again while a machine says it is well": {
			{set: and(heard, own(200)), want: StandBy},
		},
		"started again after it had yielded": {
			{set: counter(200)}, {after: everyFive, set: and(next, own(100)), want: StandBy},
		},
		"counters far ahead": {
			{set: counter(5000), alarm: "another publisher"},
			{after: everyFive, set: full(and(counter(5000), found(130*time.Minute))), want: TakeOver, why: ReasonSilence},
		},
		"only watching": {
			{set: watches}, {after: everyFive, set: and(watches, missing), next: everyFive}, {after: everyFive, set: and(watches, missing), next: everyFive, full: true},
			{after: everyFive, set: full(and(watches, missing)), alarm: "HSDirs do not have"},
			{after: everyFive, set: full(and(watches, found(145*time.Minute))), alarm: "not been renewed for 2h25m"},
			{after: everyFive, set: and(watches, expiring), alarm: "certificate"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			now := noon
			for n, step := range story {
				now = now.Add(step.after)
				v := View{
					Now: now, Period: period, Counter: 100, Most: 4000, Made: now.Add(-30 * time.Minute), Expires: now.Add(50 * time.Hour),
					Read:   Read{At: now, Found: true, Most: true},
					Points: Points{Known: true, Published: 6, Live: 4, Healthy: 2, Lag: 2 * time.Minute},
				}
				if step.set != nil {
					step.set(&v)
				}
				var d Decision
				d, s = Decide(v, s, DefaultTiming)
				what := fmt.Sprintf("step %d", n+1)
				if d.Action != step.want || step.why != "" && d.Why != step.why {
					t.Fatalf("%s: %s (%s), want %s (%s)", what, d.Action, d.Why, step.want, step.why)
				}
				if next := d.Next.Sub(now); step.next > 1 && next != step.next || step.next == 1 && next != 0 || step.next > 0 && d.Full != step.full {
					t.Errorf("%s: next after %s, full %t, want %s, %t", what, next, d.Full, step.next, step.full)
				}
				if !strings.Contains(d.Alarm.Text, step.alarm) || step.alarm == "" && d.Alarm.Text != "" && d.Action != TakeOver && v.Unable == nil && !v.Points.withdrawn() {
					t.Errorf("%s: alarm %q, want %q", what, d.Alarm.Text, step.alarm)
				}
				if d.Action == TakeOver && (d.From > v.Most || v.Counter <= v.Most && d.From != v.Counter && d.Why != ReasonResumed) {
					t.Errorf("%s: from %d", what, d.From)
				}
				if d.Next.Before(now) || d.Next.After(now.Add(everyFive)) {
					t.Errorf("%s: next at %s", what, d.Next)
				}
			}
		})
	}
}

func before(age time.Duration) func(*View) {
	return func(v *View) { v.Before = v.Now.Add(-age); v.Made = v.Before.Add(time.Hour) }
}

func turns(v *View) { v.Turn = noon.Add(90 * time.Minute) }

func hosted(v *View) { v.Hosted = true }

func withdrawn(v *View) { v.Points = Points{Known: true, Healthy: 2} }

func unable(v *View) { v.Unable = errors.New("no certificate") }

func own(counter uint64) func(*View) {
	return func(v *View) { v.Counter, v.Own = counter, true }
}

func counter(n uint64) func(*View) {
	return func(v *View) { v.Counter = n }
}

func next(v *View) { v.Period = period.Next() }

func watches(v *View) { v.Watch, v.Unable = true, nil }

func expiring(v *View) { v.Expires = v.Now.Add(5 * time.Hour) }
