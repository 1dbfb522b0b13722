package balance

import (
	"errors"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/selection"
)

// TestHiddenPoints: an ordinary service keeps points of an instance's descriptor of the
// period before, which the instance shows no more. It keeps none that the instance gave
// up in this period, nor one whose relay is gone.
func TestHiddenPoints(t *testing.T) {
	const offset = 12 * time.Hour
	period := descriptor.PeriodAt(testNow, 24*time.Hour, offset)
	start := period.Start(offset)
	for _, test := range []struct {
		what  string
		seen  time.Time         // when the points were first seen
		shows descriptor.Period // what the instance shows afterwards
		gone  bool              // a relay leaves the network
		stays bool
	}{
		{"given up in its period, seen at its begin", start.Add(10 * time.Minute), period, false, false},
		{"given up in its period, seen later", start.Add(5 * time.Hour), period, false, false},
		{"of the period before, seen at its begin", start.Add(10 * time.Minute), period.Next(), false, true},
		{"of the period before", start.Add(5 * time.Hour), period.Next(), false, true},
		{"of the period before, on a relay that left", start.Add(5 * time.Hour), period.Next(), true, false},
	} {
		var s State
		a := testMember("a", 1, 2, 3, 4)
		view := func(now time.Time, shows descriptor.Period) View {
			v := wideView(3, a)
			v.Config.Ordinary, v.offset, v.Now = true, offset, now
			v.Targets[0].Keys.Period, v.Targets[1].Keys.Period = shows, shows.Next()
			a.Period = shows
			for n := range a.Offer.Points {
				a.Offer.Points[n].FirstSeen = test.seen
			}
			return v
		}
		key := s.carryOut(view(start.Add(6*time.Hour-time.Minute), period)).Contents.IntroductionPoints[0].AuthKey
		v := view(start.Add(6*time.Hour), test.shows)
		a.Offer.Points = slices.DeleteFunc(slices.Clone(a.Offer.Points), func(p backend.Point) bool { return p.AuthKey == key })
		v.Vouch = func(p *descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error) {
			if test.gone && p.AuthKey == key {
				return nil, errors.New("its relay left")
			}
			return p, nil
		}
		p := s.carryOut(v)
		if got := slices.ContainsFunc(p.Chosen, func(c selection.Candidate) bool { return c.Point.AuthKey == key }); got != test.stays {
			t.Errorf("a point %s: stays %v, want %v", test.what, got, test.stays)
		}
	}
}
