// Package offline keeps an identity key on a machine without a network.
//
// The manager makes descriptor-signing keys for many periods ahead and writes
// their public halves to a Request. Offline, the holder of the identity key signs
// a Bundle: for each key and period a certificate by that period's blinded key,
// and the key of the period's revision counters. Each Entry of a bundle carries
// a plain signature by the identity key, so that what travels on a stick is
// checked against the onion address and nothing else. The manager's Custodian
// then hands the certificates out, one period after the other, and never sees
// an identity secret or a blinded one.
//
// # How periods and certificates overlap
//
// On the public network a period lasts L = 24 h and begins at 12:00 UTC. A
// service has two descriptors at any time, and the one of a period P, from S to
// E = S + L, is
//
//   - first published L/2 before S, with the new shared random value at 00:00,
//     as the service's second descriptor;
//   - fetched by clients whose consensus is of P: from S until E, and for up to
//     three hours longer by those with a consensus that is about to end;
//   - last published L/2 after E, at the next shared random value. The HSDirs
//     keep it for three hours more.
//
// So a descriptor of P is made between S - L/2 and E + L/2 by the clock of the
// consensus, and may be looked at until E + L/2 + 3 h. A ceremony makes a certificate
// for each hour from S - L/2 to E + L/2 + 6 h, which expires 54 hours after that hour, as
// tor's own of that hour would. What that leaves:
//
//   - The manager's clock, or the consensus that ends the period, may be six hours off
//     before descriptors have the certificate of another hour than theirs. That one is
//     still good for two days, and HSDirs see nothing but an expiry that stays.
//   - Bundles of earlier versions have a single certificate for P, which ends at
//     E + L/2 + 6 h, 54 hours after it was first needed. HSDirs see that it stays the
//     same. The balancer makes a descriptor again four hours before its certificate
//     ends: so the manager's clock may be two hours ahead before it looks for a better
//     one, says that there is none, and goes on with the one that it has. And a client's
//     clock may be 15 h ahead: the last that fetch a descriptor of P do so three hours
//     after E, and hold the certificate against their clock.
//   - A ceremony that names P as its last period keeps the service published until
//     E for everybody. P + 1 would be published from E - L/2 on: that is when the
//     balancer begins to lack something, half a period before it is too late.
//
// On a network with TestingTorNetwork a period is as long as a shared-random
// run, too, and all of this holds with its L. Where a period is not as long as
// a run (two times the offset), descriptors are published from S - L until
// E + min(L, run), and Schedule allows for that.
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

const (
	// spare is for how long after a descriptor is last published there are still
	// certificates for further hours.
	spare = 6 * time.Hour
	// leastSpare is how much longer than that the last certificate lives at least:
	// credential.ExpiryMargin.
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
	return s.Period(number).LastUse(s.Offset())
}

// Expiries returns those of a ceremony's certificates for period number: one for
// every hour at which a descriptor may be made.
func (s Schedule) Expiries(number uint64) descriptor.Expiries {
	return descriptor.SigningCertExpiries(s.FirstUse(number), s.LastUse(number).Add(spare))
}

// InUse returns the earliest period of which a descriptor is published at now.
func (s Schedule) InUse(now time.Time) descriptor.Period {
	p := s.At(now)
	if previous := p.Previous(); previous != p && now.Before(s.LastUse(previous.Number)) {
		return previous
	}
	return p
}

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
