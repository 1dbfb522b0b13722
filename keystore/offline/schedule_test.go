package offline

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

// TestPublicSchedule: the dates that the documentation gives.
func TestPublicSchedule(t *testing.T) {
	for what, test := range map[string]struct{ got, want time.Time }{
		"start":        {Public.Start(current), noon},
		"end":          {Public.End(current), noon.Add(24 * time.Hour)},
		"first use":    {Public.FirstUse(current), noon.Add(-12 * time.Hour)},
		"last use":     {Public.LastUse(current), noon.Add(36 * time.Hour)},
		"first expiry": {Public.Expiries(current).First, noon.Add(42 * time.Hour)},
		"last expiry":  {Public.Expiries(current).Last(), noon.Add((36 + 6 + 54) * time.Hour)},
	} {
		if !test.got.Equal(test.want) {
			t.Errorf("%s: %s, want %s", what, test.got, test.want)
		}
	}
	if n := Public.Expiries(current).Count; n != 48+6+1 {
		t.Errorf("certificates for %d hours", n)
	}
	for after, want := range map[time.Duration]uint64{
		-time.Second: current - 1, 0: current - 1, 12*time.Hour - time.Second: current - 1,
		12 * time.Hour: current, 24*time.Hour - time.Second: current, 24 * time.Hour: current,
	} {
		if got := Public.InUse(noon.Add(after)).Number; got != want {
			t.Errorf("%s into the period the first one published is %d, want %d", after, got, want)
		}
	}
}

// TestEverySchedule: for any network's timing there is a certificate for each hour from
// the first use of the descriptor to six or seven hours after the last.
func TestEverySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minutes := rapid.Uint64Range(1, longestPeriod).Draw(t, "minutes")
		run := rapid.Uint64Range(24, 24*3600).Draw(t, "run in seconds") / 24 * 24
		if rapid.Bool().Draw(t, "periods like runs") {
			run = minutes * 60
		}
		s := Schedule{Minutes: minutes, OffsetSeconds: run / 2}
		number := rapid.Uint64Range(1, endOfTime/minutes-1).Draw(t, "number")
		if err := s.validate(number, 1); err != nil {
			t.Fatal(err)
		}
		expiries, last := s.Expiries(number), s.LastUse(number)
		if over := expiries.Last().Add(-descriptor.CertLifetime).Sub(last); over < spare || over >= spare+time.Hour {
			t.Errorf("last use %s, last expiry %s", last, expiries.Last())
		}
		if !expiries.First.Equal(descriptor.SigningCertExpiry(s.FirstUse(number))) {
			t.Errorf("first use %s, first expiry %s", s.FirstUse(number), expiries.First)
		}
		if !s.FirstUse(number).Before(s.Start(number)) || !last.After(s.End(number)) {
			t.Errorf("period from %s to %s, used from %s to %s", s.Start(number), s.End(number), s.FirstUse(number), last)
		}
		at := s.At(s.Start(number))
		if at.Number != number || at.Length != s.Length() {
			t.Errorf("period %d begins in period %s", number, at)
		}
		if first := s.InUse(s.Start(number)); first.Number >= number {
			t.Errorf("the period before %d is not in use at its beginning", number)
		}
	})
}

func TestScheduleRefuses(t *testing.T) {
	for _, s := range []Schedule{{}, {Minutes: longestPeriod + 1}, {Minutes: 1440, OffsetSeconds: longestPeriod*60 + 1}} {
		if s.validate(1, 1) == nil {
			t.Errorf("%+v is valid", s)
		}
	}
	for _, first := range []uint64{endOfTime / 1440, 1<<64 - 1} {
		if Public.validate(first, 1) == nil {
			t.Errorf("period %d is valid", first)
		}
	}
}
