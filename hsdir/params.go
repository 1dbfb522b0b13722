package hsdir

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// Params holds the consensus parameters that a balancer needs, with the
// defaults and bounds that tor applies to them.
type Params struct {
	PeriodLength      time.Duration // hsdir_interval; a testing network ignores it
	Replicas          int           // hsdir_n_replicas
	SpreadStore       int           // hsdir_spread_store: HSDirs per replica that a service uploads to
	SpreadFetch       int           // hsdir_spread_fetch: of these, the ones that a client asks
	MaxDescriptorSize int           // HSV3MaxDescriptorSize, in bytes
	SendmeInc         uint8         // cc_sendme_inc, in cells
	CCAlg             int           // cc_alg: CCSendme or CCVegas
}

// The congestion-control algorithms that tor knows, as the values of cc_alg.
const (
	CCSendme = 0 // fixed windows: no congestion control
	CCVegas  = 2
)

// CongestionControl reports whether services should offer congestion control
// in the flow-control line of their descriptors.
func (p Params) CongestionControl() bool { return p.CCAlg != CCSendme }

// DefaultParams returns what holds while the consensus says nothing.
func DefaultParams() Params {
	return Params{
		PeriodLength:      descriptor.DefaultPeriodLength,
		Replicas:          2,
		SpreadStore:       4,
		SpreadFetch:       3,
		MaxDescriptorSize: 50000,
		SendmeInc:         31, // cells in a TLS record
		CCAlg:             CCVegas,
	}
}

var errParam = errors.New("malformed parameter, want NAME=INTEGER")

// parseParams reads the arguments of a params line. Like tor it refuses the
// whole line for one bad parameter, for parameters out of order, and for one
// that is there twice.
func parseParams(line []byte) (Params, error) {
	p := DefaultParams()
	var lastName, lastArg []byte
	for arg, rest := word(line); len(arg) > 0; arg, rest = word(rest) {
		name, text, ok := bytes.Cut(arg, []byte{'='})
		if !ok {
			return p, fmt.Errorf("%w: %s", errParam, quote(arg))
		}
		value, err := strconv.ParseInt(string(text), 10, 32)
		if err != nil {
			return p, fmt.Errorf("%w: %s", errParam, quote(arg))
		}
		if lastName != nil && (bytes.Equal(name, lastName) || bytes.Compare(lastArg, arg) >= 0) {
			return p, fmt.Errorf("parameter %s is out of order or there twice", quote(arg))
		}
		lastName, lastArg = name, arg
		p.set(string(name), value)
	}
	return p, nil
}

func (p *Params) set(name string, value int64) {
	switch name {
	case "hsdir_interval":
		p.PeriodLength = time.Duration(clamp(value, 30, 14400)) * time.Minute
	case "hsdir_n_replicas":
		p.Replicas = int(clamp(value, 1, 16))
	case "hsdir_spread_store":
		p.SpreadStore = int(clamp(value, 1, 128))
	case "hsdir_spread_fetch":
		p.SpreadFetch = int(clamp(value, 1, 128))
	case "HSV3MaxDescriptorSize":
		p.MaxDescriptorSize = int(clamp(value, 1, math.MaxInt32))
	case "cc_sendme_inc":
		p.SendmeInc = uint8(clamp(value, 1, 254))
	case "cc_alg":
		p.CCAlg = ccAlg(value)
	}
}

// ccAlg maps a number below the range to no congestion control and every other
// algorithm that tor does not know to its default.
func ccAlg(value int64) int {
	if value <= CCSendme {
		return CCSendme
	}
	return CCVegas
}

func clamp(value, low, high int64) int64 { return min(max(value, low), high) }
