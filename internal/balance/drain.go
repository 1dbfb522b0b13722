package balance

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
)

// drained says of instances that were taken out when their introduction points had
// left every HSDir that clients ask. A nil one can be read.
type drained map[descriptor.Address]time.Time

func (d *drained) note(a descriptor.Address, at time.Time) {
	if *d == nil {
		*d = drained{}
	}
	(*d)[a] = at.Round(0) // it is compared over a suspension
}

// noteDrained follows the instances that were taken out. What it learns is stored, so
// that a restart does not make them wait for another period.
func (s *Service) noteDrained(now time.Time, v backend.View) {
	var out []descriptor.Address
	for n, b := range v.Backends {
		if v.TakenOut(n) == "" || s.publishes(b.Address) {
			continue
		}
		out = append(out, b.Address)
		if _, known := s.drained[b.Address]; known || s.pending(b.Address) > 0 || !s.allMade() {
			continue
		}
		s.drained.note(b.Address, now)
		s.record.dirty, s.step = true, true
		s.tell(event.Operator, slog.LevelInfo, "no HSDir that clients ask has introduction points of the instance any more",
			slog.String("instance", s.cfg.Instances[n].Name))
	}
	before := len(s.drained)
	maps.DeleteFunc(s.drained, func(a descriptor.Address, _ time.Time) bool { return !slices.Contains(out, a) })
	if len(s.drained) != before {
		s.record.dirty, s.step = true, true
	}
}

// publishes reports whether an edition has points of the instance.
func (s *Service) publishes(a descriptor.Address) bool {
	for _, e := range s.state.Editions {
		if e.owns(a) {
			return true
		}
	}
	return false
}

// pending returns how many slots that clients ask may have points of the instance.
func (s *Service) pending(a descriptor.Address) (n int) {
	for _, e := range s.state.Editions {
		for _, at := range e.slots {
			if !at.Reserve && (at.confirmed.IsZero() || at.holding.owns(a)) {
				n++
			}
		}
	}
	return n
}

// allMade reports whether there are editions of both descriptors, except of one that
// was never published, for want of a key or because a hosted service makes it later.
func (s *Service) allMade() bool {
	for _, t := range s.plan.Targets {
		p := t.Keys.Period
		if s.state.Editions[p] == nil && (t.Credential != nil && !t.hosted || s.counters[p] != 0) {
			return false
		}
	}
	return len(s.plan.Targets) > 0
}

// SafeAt returns when no client is left with a descriptor that it fetched before a moment.
//
// A client keeps a descriptor in memory and fetches another only when none of its
// introduction points answers, or when the next time period begins. It reads that in
// the consensus that it has: one that had the last consensus of the old period when the
// period ended uses it until it is no longer valid, outdated later. So the moment is
// the next beginning of a period and outdated, on the public network the first 14:00
// UTC after the first 12:00 UTC. A client whose machine slept over that has an older
// consensus still, for as long as it takes to fetch one. Its old introduction
// points are closed by then, and it goes on to others.
//
// A client that has connected stays so: how long, only the instance knows.
func SafeAt(left time.Time, length, offset, outdated time.Duration) time.Time {
	return descriptor.PeriodAt(left, length, offset).End(offset).Add(outdated)
}

// describeDrain says how far the nth instance is, which was taken out. One that is down
// serves nobody, so nobody waits for clients that might come.
func (s *Service) describeDrain(v View, n int) *status.Drain {
	b := v.Instances.Backends[n]
	d := &status.Drain{Left: s.drained[b.Address]}
	d.Stays = len(s.plan.Chosen) == 0 && s.publishes(b.Address)
	if d.Left.IsZero() {
		d.Pending = s.pending(b.Address)
		return d
	}
	if ring := v.Targets[hsdir.FirstRole].Ring; ring != nil {
		d.SafeAt = SafeAt(d.Left, ring.Period.Length, v.offset, v.outdated)
		d.Safe = v.Instances.Checked(n).Operating == health.Down || !v.Now.Before(d.SafeAt)
	}
	return d
}
