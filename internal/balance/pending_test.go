package balance

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// An edition that follows one which waits in the queue is as urgent as what HSDirs have makes
// it, though it be hardly better than the one that waits.
func TestUrgencyOfPending(t *testing.T) {
	a, b := testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)
	again, more, other := testMember("a", 7, 8), testMember("a", 7, 8, 9), testMember("b", 11, 12, 13)
	asked := func(e *Edition, n int, change func(s *slot)) {
		for m := range e.slots {
			if !e.slots[m].Reserve {
				if n--; n >= 0 {
					change(&e.slots[m])
				}
			}
		}
	}
	type step struct {
		members   []*member
		confirmed int // of the six HSDirs that clients ask
		tried     int32
		want      hsdir.Urgency
	}
	start := step{[]*member{a, b}, 6, 0, hsdir.UrgencyNew}
	for what, steps := range map[string][]step{
		"one restarts, and has another point": {start, {[]*member{again, b}, 0, 0, hsdir.UrgencyPointsDead}, {[]*member{more, b}, 0, 0, hsdir.UrgencyPointsDead}},
		"one HSDir still has the dead points": {start, {[]*member{again, b}, 5, 0, hsdir.UrgencyPointsDead}, {[]*member{more, b}, 0, 0, hsdir.UrgencyPointsDead}},
		"one that does not answer has them":   {start, {[]*member{again, b}, 5, unanswered, hsdir.UrgencyPointsDead}, {[]*member{more, b}, 0, 0, hsdir.UrgencyRotation}},
		"all have what waited":                {start, {[]*member{again, b}, 6, 0, hsdir.UrgencyPointsDead}, {[]*member{more, b}, 0, 0, hsdir.UrgencyRotation}},
		"one restarts, then the other":        {start, {[]*member{again, b}, 0, 0, hsdir.UrgencyPointsDead}, {[]*member{again, other}, 0, 0, hsdir.UrgencyNoLivePoint}},
		"and one HSDir has the first's":       {start, {[]*member{again, b}, 1, 0, hsdir.UrgencyPointsDead}, {[]*member{again, other}, 0, 0, hsdir.UrgencyPointsDead}},
		"both in turns, and a point more": {
			start, {[]*member{again, b}, 0, 0, hsdir.UrgencyPointsDead}, {[]*member{again, other}, 0, 0, hsdir.UrgencyNoLivePoint}, {[]*member{more, other}, 0, 0, hsdir.UrgencyNoLivePoint},
		},
		"nothing was ever confirmed": {{[]*member{again, b}, 0, 0, hsdir.UrgencyNew}, {[]*member{more, b}, 0, 0, hsdir.UrgencyNew}},
	} {
		s := State{Editions: map[descriptor.Period]*Edition{}}
		for n, step := range steps {
			v := hostedAt(14*time.Hour+time.Duration(n)*time.Minute, 1, step.members...).keep(s)
			for _, m := range step.members {
				m.adopt(v.Now)
			}
			p := makePlan(v, s)
			target := &p.Targets[v.Current]
			if target.Reason == "" || target.Urgency != step.want {
				t.Errorf("%s: %d: %q with urgency %d, want %d", what, n, target.Reason, target.Urgency, step.want)
			}
			e := newEdition(v.Now, target, s.Editions[target.Keys.Period], uint64(n+1))
			s.Editions[target.Keys.Period] = e
			s.Published, s.hidden = p.Chosen, p.hidden
			for m := range e.slots {
				e.slots[m].confirmed, e.slots[m].attempts = time.Time{}, step.tried
			}
			asked(e, step.confirmed, func(s *slot) { s.confirmed = v.Now })
			e.heard = time.Time{}
			if n > 0 || step.confirmed > 0 {
				e.heard = v.Now
			}
		}
	}
}
