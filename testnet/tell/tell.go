// Package tell tries to tell the descriptors of a balancer from those of an ordinary
// tor, for tests of the ordinary profile.
//
// It measures whatever a reader of descriptors could: one who keeps an HSDir and sees
// the outer layer, one who knows the address and reads both encrypted layers at
// several HSDirs and those of the service's other descriptor, and one who has even the
// secret that revision counters come from. Compare then looks for a difference
// between two lots of descriptors. It trusts no idea of what tor does: a difference is
// what tells one half of the lots apart when it was found in the other half.
package tell

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"onionbalancer/descriptor"
)

// Sample is a descriptor of a service as several HSDirs have it at one moment.
type Sample struct {
	Address  descriptor.Address
	Period   descriptor.Period
	RunStart time.Time              // of the shared-random run that the revision counter counts from
	Counter  descriptor.RevisionKey // of the service and period
	Bodies   [][]byte               // by HSDir, at least two

	// Other is the service's other descriptor at one HSDir, and OtherPeriod its period.
	// It may be nil.
	Other       []byte
	OtherPeriod descriptor.Period

	// Before is an earlier version of the descriptor. It may be nil.
	Before []byte
}

// made returns when the descriptor was made, by its revision counter; false if that is
// none of the moments that counters have.
func (s *Sample) made(counter uint64) (time.Time, bool) {
	reach := 1 // seconds from the run's beginning
	for at, ok := s.counterAt(reach); ok && at < counter; at, ok = s.counterAt(reach) {
		reach *= 2
	}
	seconds, found := sort.Find(reach+1, func(seconds int) int {
		at, ok := s.counterAt(seconds)
		if !ok {
			return -1
		}
		return cmp.Compare(counter, at)
	})
	return s.RunStart.Add(time.Duration(seconds) * time.Second), found
}

// counterAt is the counter after so many seconds of the run; false if there is none.
func (s *Sample) counterAt(seconds int) (uint64, bool) {
	n, err := s.Counter.RevisionCounter(s.RunStart, s.RunStart.Add(time.Duration(seconds)*time.Second))
	return n, err == nil
}

// Constants returns the features of which all of a lot have the same value.
func Constants(lot []Features) Features {
	same := make(Features)
	for name, v := range lot[0] {
		if !slices.ContainsFunc(lot, func(f Features) bool { return f[name] != v }) {
			same[name] = v
		}
	}
	return same
}

// Departures returns the names of the features that f has with other values than c.
func (f Features) Departures(c Features) (names []string) {
	for name, v := range f {
		if want, constant := c[name]; constant && v != want {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
