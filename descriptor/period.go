package descriptor

import (
	"fmt"
	"time"
)

// DefaultPeriodLength is the length of a time period on the public network,
// where the consensus parameter hsdir_interval is absent.
const DefaultPeriodLength = 1440 * time.Minute

// DefaultRotationOffset is where a time period begins on the public network:
// twelve voting intervals of an hour after midnight.
const DefaultRotationOffset = 12 * time.Hour

// Period is a time period: the span for which one blinded key of a service is
// used (rend-spec-v3, section 2.2.1, TIME-PERIODS). Periods are comparable.
type Period struct {
	// Number counts periods of this length since the epoch, the offset left out.
	Number uint64
	// Length is a whole number of minutes.
	Length time.Duration
}

// PeriodAt returns the period that t falls into, when periods are length long
// and begin offset after a multiple of length since the epoch. Both are cut
// down to whole minutes, as tor does. A t before the first period gives number 0;
// a length under a minute is an error of the caller and gives the public
// network's length.
func PeriodAt(t time.Time, length, offset time.Duration) Period {
	length = length.Truncate(time.Minute)
	if length < time.Minute {
		length = DefaultPeriodLength
	}
	minutes := t.Unix()/60 - int64(offset/time.Minute)
	if minutes < 0 {
		return Period{Length: length}
	}
	return Period{Number: uint64(minutes / int64(length/time.Minute)), Length: length}
}

// Start returns the moment at which p begins under the given rotation offset.
func (p Period) Start(offset time.Duration) time.Time {
	minutes := int64(p.Number)*int64(p.Minutes()) + int64(offset/time.Minute)
	return time.Unix(minutes*60, 0).UTC()
}

// End returns the moment at which the period after p begins.
func (p Period) End(offset time.Duration) time.Time { return p.Next().Start(offset) }

// FirstUse returns when a descriptor of p is published first: with the shared
// random value before p begins (rend-spec-v3, section 2.2.2), which comes half a
// period before if periods are as long as the runs that make one.
func (p Period) FirstUse(offset time.Duration) time.Time {
	if p.Length == 2*offset {
		return p.Start(offset).Add(-offset)
	}
	return p.Start(offset).Add(-p.Length)
}

// Next returns the period after p.
func (p Period) Next() Period { return Period{p.Number + 1, p.Length} }

// Previous returns the period before p; period 0 is its own predecessor.
func (p Period) Previous() Period {
	if p.Number == 0 {
		return p
	}
	return Period{p.Number - 1, p.Length}
}

// Minutes returns the length of p in minutes, the unit that enters the hashes.
func (p Period) Minutes() uint64 { return uint64(p.Length / time.Minute) }

// String writes p as number and length, "20456/1440m".
func (p Period) String() string { return fmt.Sprintf("%d/%dm", p.Number, p.Minutes()) }
