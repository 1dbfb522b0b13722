package credential

import (
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// bundle is a Supplier of certificates for the periods up to last.
type bundle struct {
	last    descriptor.Period
	horizon int
}

func (b bundle) Supply(from descriptor.Period) (descriptor.Period, int, bool) {
	return b.last, b.horizon, from.Number <= b.last.Number
}

func TestLook(t *testing.T) {
	const day = 24 * time.Hour
	current := descriptor.Period{Number: 20000, Length: day}
	start := current.Start(descriptor.DefaultRotationOffset)
	for _, test := range []struct {
		what          string
		left, horizon int // periods, from the current one on; 0 for none
		into          time.Duration
		stage         int
		urgent        bool
		says          string
	}{
		{"all of it", 60, 60, 0, 0, false, ""},
		{"just more than a third", 21, 60, day - time.Second, 0, false, ""},
		{"a third", 20, 60, 0, 1, false, "for 20 days more: install new ones before 2024-10-24 00:00"},
		{"a sixth", 10, 60, 0, 2, false, "for 10 days more"},
		{"a tenth", 6, 60, 0, 2, true, "for 6 days more"},
		{"nine of thirty", 9, 30, 0, 1, false, "for 9 days more"},
		{"three days of thirty", 3, 30, 0, 2, true, "for 3 days more"},
		{"the last", 1, 60, 0, 5, true, "for 24 hours more: install"},
		{"the last, and the next is published early", 1, 60, day / 2, 6, true, "for 12 hours more, and there is none for the next period"},
		{"the last hour", 1, 60, day - time.Hour, 9, true, "for 60 minutes more"},
		{"one of two", 1, 2, 0, 1, false, "for 24 hours more: install"},
		{"two of two", 2, 2, 0, 0, false, ""},
		{"one of one", 1, 1, 0, 1, false, "for 24 hours more"},
		{"unknown horizon", 5, 0, 0, 0, false, ""},
		{"the end, while the consensus is of before", 1, 60, day, stageOver, true, "ended at 2024-10-05 12:00"},
		{"long after", 1, 60, 40 * day, stageOver, true, "ended at 2024-10-05 12:00"},
		{"none", 0, 60, 0, stageOver, true, "no certificate for the period"},
	} {
		b := bundle{last: descriptor.Period{Number: 20000 + uint64(test.left) - 1, Length: day}, horizon: test.horizon}
		o := look(start.Add(test.into), b, current, descriptor.DefaultRotationOffset, outlook{})
		if test.stage == stageOver {
			test.left = 0
		}
		if o.stage != test.stage || o.urgent != test.urgent || !strings.Contains(o.text, test.says) || (test.says == "") != (o.text == "") || o.periods != test.left {
			t.Errorf("%s: stage %d, urgent %v, %d periods, %q; want %d, %v, %q", test.what, o.stage, o.urgent, o.periods, o.text, test.stage, test.urgent, test.says)
		}
	}
	// Periods that are not as long as a shared-random run are published early by
	// a whole one.
	odd := descriptor.Period{Number: 100, Length: 6 * time.Hour}
	if got, want := odd.FirstUse(12*time.Hour), odd.Start(12*time.Hour).Add(-6*time.Hour); !got.Equal(want) {
		t.Errorf("first use at %v, want %v", got, want)
	}
}
