package offline

import (
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// Schedule is when a network's time periods begin. The zero value is invalid.
type Schedule struct {
	Minutes       uint64 `json:"period_length_minutes"`
	OffsetSeconds uint64 `json:"rotation_offset_seconds"`
}

// Public is the schedule of the public network.
var Public = NewSchedule(descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset)

// NewSchedule returns the schedule of periods that are length long and begin
// offset after a multiple of it.
func NewSchedule(length, offset time.Duration) Schedule {
	return Schedule{Minutes: uint64(length / time.Minute), OffsetSeconds: uint64(offset / time.Second)}
}

const (
	// longestPeriod is the most that the consensus parameter hsdir_interval says.
	longestPeriod = 14 * 24 * 60 // minutes
	// endOfTime bounds the periods: about the year 9600.
	endOfTime = 1 << 32 // minutes since the epoch
)

// What a certificate lives longer than its descriptor is published.
const (
	spare = 6 * time.Hour
	// leastSpare is what the balancer needs (its certificateMargin).
	leastSpare = 4 * time.Hour
)

// Length returns how long a period is.
func (s Schedule) Length() time.Duration { return time.Duration(s.Minutes) * time.Minute }

// Offset returns how long after a multiple of their length periods begin.
func (s Schedule) Offset() time.Duration { return time.Duration(s.OffsetSeconds) * time.Second }

// Period returns the period of a number.
func (s Schedule) Period(number uint64) descriptor.Period {
	return descriptor.Period{Number: number, Length: s.Length()}
}

// At returns the period that t falls into.
func (s Schedule) At(t time.Time) descriptor.Period {
	return descriptor.PeriodAt(t, s.Length(), s.Offset())
}

// Start returns when period number begins.
func (s Schedule) Start(number uint64) time.Time { return s.Period(number).Start(s.Offset()) }

// End returns when period number ends.
func (s Schedule) End(number uint64) time.Time { return s.Period(number).End(s.Offset()) }

// FirstUse returns when a descriptor of period number is first published.
func (s Schedule) FirstUse(number uint64) time.Time {
	return s.Period(number).FirstUse(s.Offset())
}

// LastUse returns until when a descriptor of period number is published.
func (s Schedule) LastUse(number uint64) time.Time {
	if s.likeRuns() {
		return s.End(number).Add(s.Offset())
	}
	return s.End(number).Add(min(s.Length(), s.run()))
}

// Expiry returns when a ceremony's certificates for period number end, a whole
// hour.
func (s Schedule) Expiry(number uint64) time.Time {
	return s.LastUse(number).Add(spare + time.Hour - time.Second).Truncate(time.Hour)
}

// InUse returns the earliest period of which a descriptor is published at now.
func (s Schedule) InUse(now time.Time) descriptor.Period {
	p := s.At(now)
	if previous := p.Previous(); previous != p && now.Before(s.LastUse(previous.Number)) {
		return previous
	}
	return p
}

// run is the length of a shared-random run: the offset is its half.
func (s Schedule) run() time.Duration { return 2 * s.Offset() }

func (s Schedule) likeRuns() bool { return s.Length() == s.run() }

// validate refuses schedules that no network has, and those with which the
// periods from first on, count of them, cannot be computed.
func (s Schedule) validate(first uint64, count int) error {
	if s.Minutes < 1 || s.Minutes > longestPeriod {
		return fmt.Errorf("periods of %d minutes, want 1 to %d", s.Minutes, longestPeriod)
	}
	if s.OffsetSeconds > longestPeriod*60 {
		return fmt.Errorf("periods that begin %d seconds late, want at most %d", s.OffsetSeconds, longestPeriod*60)
	}
	if limit := endOfTime / s.Minutes; first > limit || uint64(count) > limit-first {
		return fmt.Errorf("period %d, want at most %d", first, limit)
	}
	return nil
}

// String names the network's timing.
func (s Schedule) String() string {
	return fmt.Sprintf("periods of %s that begin %s after a multiple of it", s.Length(), s.Offset())
}
