package standby

import (
	"maps"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/state"
	"onionbalancer/internal/times"
)

// memory is what readings of one service have shown. The highest counter of a period
// counts, whatever HSDirs hand out later.
type memory struct {
	seen   map[descriptor.Period]*seen
	last   time.Time     // of the last reading that found or missed the service
	ahead  time.Duration // by how much the other clock is ahead of ours, as far as known
	points pointMemory
}

// seen is the highest descriptor of a period.
type seen struct {
	counter  uint64
	own      bool
	made     time.Time // when it was made, by our clock
	expires  time.Time
	readable bool
	points   [][32]byte
}

// keptPeriods is how many periods' counters are remembered: a service publishes for two.
const keptPeriods = 3

// clock decodes when a counter was made, by the clock of who made it.
type clock func(counter uint64) time.Time

// note takes in what a reading found, read at now: the outer layer of a descriptor and, if
// it could be read, the whole. own says whether this machine made it. The time in a
// counter is that of another clock, which may be wrong: if the last reading, not longer ago
// than watched, did not show the counter yet, it was made since, and that tells how wrong.
func (m *memory) note(now time.Time, p descriptor.Period, outer, whole *descriptor.Descriptor, own bool, decode clock, watched time.Duration) *seen {
	if m.seen == nil {
		m.seen = make(map[descriptor.Period]*seen)
	}
	before, last := m.seen[p], m.last
	m.last = now
	if outer == nil || before != nil && outer.RevisionCounter <= before.counter {
		return before
	}
	is := &seen{counter: outer.RevisionCounter, own: own, expires: outer.SigningCert.Expires()}
	made := decode(is.counter)
	switch gap := now.Sub(last); {
	case own:
		is.made = made
	case before != nil && gap >= 0 && gap <= watched:
		is.made = times.Later(made.Add(-m.ahead), last)
		is.made = times.Earlier(is.made, now)
		m.ahead = made.Sub(is.made)
	default:
		is.made = times.Earlier(made.Add(-m.ahead), now)
	}
	if whole != nil {
		is.readable = true
		for n := range whole.IntroductionPoints {
			is.points = append(is.points, whole.IntroductionPoints[n].AuthKey)
		}
	}
	m.seen[p] = is
	maps.DeleteFunc(m.seen, func(old descriptor.Period, _ *seen) bool {
		return old.Length != p.Length || old.Number+keptPeriods <= p.Number
	})
	return is
}

// woke forgets what lasts only while the machine is awake and its clock goes on.
func (m *memory) woke(now time.Time) {
	m.last, m.points.since = time.Time{}, now
	for _, s := range m.seen {
		if s.made.After(now) { // the clock was set back
			s.made = now
		}
	}
}

// floors lists the counters to start above, at most those that limit returns: what was
// seen, and in a period of which nothing can be read what another clock that is ahead may
// have reached.
func (m *memory) floors(now time.Time, c *hsdir.Consensus, key func(descriptor.Period) (descriptor.RevisionKey, error), ahead time.Duration) (list []state.Ceiling) {
	for _, role := range []hsdir.Role{hsdir.FirstRole, hsdir.SecondRole} {
		p, start := c.Period(role), c.RunStart(role)
		var floor uint64
		if s := m.seen[p]; s != nil {
			floor = s.counter
		}
		if k, err := key(p); err == nil {
			if m.ahead > 0 {
				floor = max(floor, counterAt(k, start, now.Add(m.ahead)))
			}
			floor = min(floor, counterAt(k, start, now.Add(ahead)))
		}
		if floor > 0 {
			list = append(list, state.Ceiling{Period: p.Number, Minutes: p.Minutes(), Counter: floor})
		}
	}
	return list
}
