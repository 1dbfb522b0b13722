package balance

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
)

// A drained instance leaves at once, of however many, also right after a restart or after
// the beginning of a period.
func TestHostedDrain(t *testing.T) {
	drained := func() []*member {
		list := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6), testMember("c", 7, 8, 9), testMember("d", 10, 11, 12)}
		list[0].Word.Admin = health.Drain
		return list
	}
	for _, test := range []struct {
		what string
		at   time.Duration // of the day
		ago  time.Duration // the edition was made
	}{
		{"in a period", 9 * time.Hour, 30 * time.Minute},
		{"of the period before", 12*time.Hour + 10*time.Minute, 30 * time.Minute},
	} {
		t.Run(test.what, func(t *testing.T) {
			for seed := range byte(20) {
				v := hostedAt(test.at, seed, drained()...)
				h := &holding{Contents: &descriptor.Contents{}}
				for n := range byte(12) {
					h.IntroductionPoints = append(h.IntroductionPoints, testPoint(n+1))
					h.owners = append(h.owners, descriptor.Address{"abcd"[n/3]})
				}
				current := v.Targets[v.Current].Keys.Period
				restarted := State{Before: map[descriptor.Period]*past{current: {
					state.Made{Built: v.Now.Add(-test.ago), Refresh: v.Now.Add(140*time.Minute - test.ago)}, []place{{holding: h}}}}}
				if got := makePlan(v, restarted).Targets[v.Current]; got.Held != "" || got.Reason == "" {
					t.Errorf("seed %d, restarted: %q, held: %s", seed, got.Reason, got.Held)
				}
				var s State
				members := drained()
				members[0].Word.Admin = ""
				s.carryOut(hostedAt(test.at-test.ago, seed, members...))
				p := s.carryOut(hostedAt(test.at, seed, drained()...).keep(s))
				if got := p.Targets[v.Current]; got.Held != "" || got.Reason == "" {
					t.Errorf("seed %d, running: %q, held: %s; change %d", seed, got.Reason, got.Held, got.change)
				}
			}
		})
	}
}
