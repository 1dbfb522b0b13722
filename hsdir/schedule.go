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
}

// defaultParams returns the values that apply if the consensus does not set them.
func defaultParams() Params {
	return Params{
		PeriodLength:      descriptor.DefaultPeriodLength,
		Replicas:          2,
		SpreadStore:       4,
		SpreadFetch:       3,
		MaxDescriptorSize: 50000,
		SendmeInc:         31, // cells in a TLS record
	}
}

var errParam = errors.New("malformed parameter, want NAME=INTEGER")

// parseParams reads the arguments of a params line. Like tor it refuses the
// whole line for one bad parameter, for parameters out of order, and for one
// that appears twice.
func parseParams(line []byte) (Params, error) {
	p := defaultParams()
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
	}
}

func clamp(value, low, high int64) int64 { return min(max(value, low), high) }

// Role tells the two descriptors apart that a service has at any time
// (rend-spec-v3, sections 2.2.2.1 and 2.2.2.2).
type Role uint8

// The first descriptor is the one of the earlier period, the second one that
// of the later.
const (
	FirstRole Role = iota
	SecondRole
)

// String returns "first" or "second".
func (r Role) String() string {
	if r == FirstRole {
		return "first"
	}
	return "second"
}

// MarshalText writes what String returns.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// A run of the shared-random protocol has two phases of twelve rounds, one
// round for every consensus (srv-spec).
const (
	roundsPerPhase = 12
	roundsPerRun   = 2 * roundsPerPhase
)

// schedule is where a consensus stands between changes of period and of shared
// random value. Times and periods are those of its valid-after, since everyone
// agrees on the consensus and not on the clock.
type schedule struct {
	interval     time.Duration // between votes
	offset       time.Duration // of the periods' beginnings
	length       time.Duration // of a period
	period       descriptor.Period
	runStart     time.Time // of the shared-random run that is on
	nextPeriod   time.Time // when period ends
	afterRun     time.Time // first beginning of a period in the run that is on
	between      bool      // between a change of period and the next shared random value
	current      Role      // the descriptor that clients fetch
	periods      [2]descriptor.Period
	runStarts    [2]time.Time
	nextSRVStart time.Time
}

func newSchedule(c *Consensus) (schedule, error) {
	s := schedule{interval: c.VotingInterval(), length: c.Params.PeriodLength}
	if s.interval < time.Second || s.interval > 24*time.Hour {
		return s, fmt.Errorf("a voting interval of %v, from valid-after to fresh-until", s.interval)
	}
	if c.ValidUntil.Before(c.FreshUntil) || c.ValidAfter.Unix() < int64(roundsPerRun*s.interval/time.Second) {
		return s, fmt.Errorf("valid from %s to %s", c.ValidAfter.Format(dirTimeLayout), c.ValidUntil.Format(dirTimeLayout))
	}
	run := roundsPerRun * s.interval
	s.offset = roundsPerPhase * s.interval
	if c.Testing {
		// So that a testing network sees changes: as long as a run, whatever
		// the parameter says.
		if s.length = run.Truncate(time.Minute); s.length < time.Minute {
			return s, fmt.Errorf("a voting interval of %v, too short for periods of whole minutes", s.interval)
		}
	}
	s.period = descriptor.PeriodAt(c.ValidAfter, s.length, s.offset)
	s.nextPeriod = s.period.End(s.offset)
	rounds := c.ValidAfter.Unix() / int64(s.interval/time.Second)
	s.runStart = c.ValidAfter.Add(-time.Duration(rounds%roundsPerRun) * s.interval)
	s.nextSRVStart = s.runStart.Add(run)
	s.place(c.ValidAfter)
	return s, nil
}

// place computes the segment, and from it the periods of both descriptors
// (the picture in rend-spec-v3, section 2.2.2).
func (s *schedule) place(validAfter time.Time) {
	// tor truncates the offset to minutes for the number of a period, but not
	// for its beginning.
	atRun := descriptor.PeriodAt(s.runStart, s.length, s.offset)
	s.afterRun = atRun.End(0).Add(s.offset)
	s.between = validAfter.Before(s.runStart) || !validAfter.Before(s.afterRun)
	s.periods = [2]descriptor.Period{FirstRole: s.period, SecondRole: s.period.Next()}
	s.current = FirstRole
	if s.between {
		s.periods = [2]descriptor.Period{FirstRole: s.period.Previous(), SecondRole: s.period}
		s.current = SecondRole
	}
	s.runStarts = [2]time.Time{FirstRole: s.runStart.Add(-roundsPerRun * s.interval), SecondRole: s.runStart}
}

// Period returns the period of the first or of the second descriptor.
func (c *Consensus) Period(role Role) descriptor.Period { return c.schedule.periods[role&1] }

// CurrentPeriod returns the period whose descriptors clients fetch.
func (c *Consensus) CurrentPeriod() descriptor.Period { return c.schedule.period }

// RunStart returns the beginning of the shared-random run from which the
// revision counter of the first or of the second descriptor counts.
func (c *Consensus) RunStart(role Role) time.Time { return c.schedule.runStarts[role&1] }

// NextPeriod returns the moment at which the next period begins: from the
// first consensus that is valid then, clients fetch for the new one.
func (c *Consensus) NextPeriod() time.Time { return c.schedule.nextPeriod }

// NextSharedRandom returns the moment from which the consensus has a new shared
// random value. Services then make their second descriptor their first one.
func (c *Consensus) NextSharedRandom() time.Time { return c.schedule.nextSRVStart }

// NextChange returns the next moment at which periods or shared random values
// change: with the first consensus that is valid then, the rings change.
func (c *Consensus) NextChange() time.Time {
	next := c.schedule.nextPeriod
	for _, t := range []time.Time{c.schedule.nextSRVStart, c.schedule.afterRun} {
		if t.After(c.ValidAfter) && t.Before(next) {
			next = t
		}
	}
	return next
}

// RotationOffset returns how long after a multiple of the period length periods
// begin, for descriptor.PeriodAt and Period.Start.
func (c *Consensus) RotationOffset() time.Duration { return c.schedule.offset }
