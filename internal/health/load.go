package health

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Load is how loaded an instance was told to be, in any unit that all instances of a
// service have in common: a load average, the length of a queue. The zero Load is none.
type Load struct {
	Value float64
	Until time.Time // it counts before that: who tells loads has to go on
}

// LoadKept is how long a load counts unless something else is said.
const LoadKept = 10 * time.Minute

// maxLoad is the highest load that is taken.
const maxLoad = math.MaxInt32

// NoLoad is the text for no load.
const NoLoad = "-"

// ParseLoad reads a load, a number from 0 on, or NoLoad; given is false for that.
func ParseLoad(text string) (value float64, given bool, err error) {
	if text == NoLoad {
		return 0, false, nil
	}
	value, err = strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(value) || math.Signbit(value) || value > maxLoad {
		return 0, false, fmt.Errorf("reading the load %q: want a number from 0 to %d, or %q for none", text, maxLoad, NoLoad)
	}
	return value, true, nil
}

// At returns the load that counts at a time; nil for none.
func (l Load) At(now time.Time) *float64 {
	if !now.Before(l.Until) {
		return nil
	}
	return &l.Value
}

// Differs reports whether another load is worth a new plan: small changes, of which
// there may be many, count when there is one anyway.
func (l Load) Differs(other Load) bool {
	const step = 0.1 // of the higher one
	return l.Until.IsZero() != other.Until.IsZero() || math.Abs(l.Value-other.Value) > step*max(l.Value, other.Value)
}
