package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
)

// Summary is what a shard's status needs to know of each of its thousands of services:
// what is the service's own. What instances do shows in the Status of any of them.
type Summary struct {
	// State is that of Status, but for instances that are missing and what all services
	// with the same ones are warned of.
	State     status.State
	Withdrawn bool      // as it was configured
	Started   time.Time // when Run began; zero if it did not
	// Made is when the version was made of the descriptor that clients fetch now; zero
	// if no HSDir has one.
	Made     time.Time
	Missing  int      // HSDirs that clients ask now, and that have not confirmed that version
	Warnings []string // its own
	Custody  status.Custody
}

// Summary tells what the service is doing now, in microseconds.
func (s *Service) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.env.Now()
	out := Summary{State: status.StateStarting, Withdrawn: s.cfg.Withdrawn, Started: s.started}
	current := s.report.seen.current().Keys.Period
	out.Custody = s.keys.Status(now, current)
	if s.instances == nil {
		return out
	}
	out.Warnings = append(s.own(), s.keys.Warnings(now)...)
	if text := s.keys.Outlook(); text != "" {
		out.Warnings = append(out.Warnings, text)
	}
	out.State = s.sum(now, current, len(out.Warnings) > 0)
	if e := s.state.Editions[current]; e != nil {
		out.Made, out.Missing = e.age()
	} else if before := s.goesOn(); before != nil {
		out.Made = before.made.Built
	}
	return out
}

// Common lists what all services with the same instances are warned of.
func (s *Service) Common() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instances == nil {
		return nil
	}
	return s.common(s.lastView(s.env.Now()))
}

// Draining tells how far an instance is on its way out; nil if it is not.
func (s *Service) Draining(instance descriptor.Address) *status.Drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.IndexFunc(s.cfg.Instances, func(i Instance) bool { return i.Address == instance })
	if n < 0 || s.instances == nil {
		return nil
	}
	v := s.lastView(s.env.Now())
	if n >= len(v.Instances.Backends) || v.Instances.TakenOut(n) == "" {
		return nil
	}
	return s.describeDrain(v, n)
}

// Uncertified returns why the keys do not sign the descriptor that clients fetch now; nil if
// nothing is known against it.
func (s *Service) Uncertified() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.Uncertified(s.report.seen.current().Keys.Period)
}

// published reports whether an HSDir of the ring confirmed e.
func (e *Edition) published() bool {
	return e != nil && slices.ContainsFunc(e.slots, func(at slot) bool { return !at.Left && !at.confirmed.IsZero() })
}

// age returns when the version of e was made that HSDirs have, and how many of those that
// clients ask have not confirmed e. What they have of an earlier version is as old as its
// last confirmation, or older.
func (e *Edition) age() (made time.Time, missing int) {
	made = e.heard
	for n := range e.slots {
		switch at := &e.slots[n]; {
		case at.Left:
		case !at.confirmed.IsZero():
			made = e.Built
		case !at.Reserve:
			missing++
		}
	}
	return made, missing
}

// Stored is what HSDirs have of the descriptor that clients fetch now.
type Stored struct {
	Built     time.Time // the last version; zero if this process made none
	Right     time.Time // when it was last found to be what it should; zero if it is not
	Points    int       // introduction points in it
	Slots     int       // HSDirs that clients ask
	Confirmed int       // of them, those that have it
}

// Stored tells what HSDirs have of the descriptor that clients fetch now.
func (s *Service) Stored() (out Stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.state.Editions[s.report.seen.current().Keys.Period]
	if e == nil {
		return out
	}
	out.Built, out.Points = e.Built, e.points()
	for n := range s.plan.Targets {
		if t := &s.plan.Targets[n]; t.Keys.Period == e.Keys.Period && t.Reason == "" && s.plan.Waiting == "" && s.inbox.empty() {
			out.Right = s.plan.At
		}
	}
	for n := range e.slots {
		if at := &e.slots[n]; !at.Left && !at.Reserve {
			out.Slots++
			if !at.confirmed.IsZero() {
				out.Confirmed++
			}
		}
	}
	return out
}
