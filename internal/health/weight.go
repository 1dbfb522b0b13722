package health

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Weight is a weight that is given at run time, in the forms of HAProxy's "set weight":
// "50%" is half of the configured weight, and "50" stands instead of it. The zero
// Weight is none: the configured one stays.
type Weight struct {
	value   float64
	percent bool
	given   bool
}

// The highest weights: HAProxy's own for an absolute one.
const (
	maxWeight  = 256
	maxPercent = 10_000
)

// DefaultWeight is the text of the zero Weight.
const DefaultWeight = "default"

// ParseWeight reads "50", "50%" or "default".
func ParseWeight(text string) (Weight, error) {
	if text == DefaultWeight {
		return Weight{}, nil
	}
	number, percent := strings.CutSuffix(text, "%")
	most := float64(maxWeight)
	if percent {
		most = maxPercent
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(value) || math.Signbit(value) || value > most {
		return Weight{}, fmt.Errorf("reading the weight %q: want a number from 0 to %d, a share of the configured weight as in \"50%%\", or %q", text, maxWeight, DefaultWeight)
	}
	return Weight{value, percent, true}, nil
}

// String returns the text that ParseWeight reads.
func (w Weight) String() string {
	if !w.given {
		return DefaultWeight
	}
	text := strconv.FormatFloat(w.value, 'f', -1, 64)
	if w.percent {
		text += "%"
	}
	return text
}

// MarshalText returns the text that ParseWeight reads.
func (w Weight) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText is ParseWeight.
func (w *Weight) UnmarshalText(text []byte) (err error) {
	*w, err = ParseWeight(string(text))
	return err
}

// Of returns the weight in force for an instance of a configured weight.
func (w Weight) Of(configured float64) float64 {
	switch {
	case !w.given:
		return configured
	case w.percent:
		return configured * w.value / 100
	}
	return w.value
}

// Zero reports whether w leaves an instance without new visitors.
func (w Weight) Zero() bool { return w.given && w.value == 0 }
