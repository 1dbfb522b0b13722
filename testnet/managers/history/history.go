// Package history checks what several managers did to HSDirs against what a cluster
// promises, from outside of them: no store and no manager is asked whether all was well.
//
//	V1  no counter is used under two terms of a service
//	V2  all counters of a term are above those of the terms before
//	V3  no HSDir stores what an earlier term made in the place of what a later one did
//	V4  no service is without a stored upload for too long: Gap
//	V5  nothing of a term is uploaded by a manager that has learnt that it is over
//	V6  no visit is lost: Visits
//	V7  moving is not publishing again: Uploads
//
// V8 is that a cluster whose store compares nothing breaks V2 and V3, and that this shows.
package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Upload is a descriptor that arrived at an HSDir.
type Upload struct {
	At      time.Time
	Service descriptor.Address
	Period  descriptor.BlindedPublicKey // zero if there is only one
	HSDir   string                      // empty if there is only one
	Counter uint64
	Manager string
	Term    uint64 // under which it was made; 0: the last that the manager had when it arrived
	Stored  bool
}

// Turn is a new owner of a service, as the store has it.
type Turn struct {
	At      time.Time
	Service descriptor.Address
	Owner   string // empty: nobody
	Term    uint64
}

// learnt is when a manager learnt which of its terms are over.
type learnt struct {
	at      time.Time
	manager string
}

// Visit is one of the public address of a service.
type Visit struct {
	At      time.Time
	Service descriptor.Address
	Err     error // why it was lost, or nil
}

// Log is what happened. It is safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	uploads []Upload
	turns   map[descriptor.Address][]Turn
	learnt  []learnt
	visits  []Visit
}

// Upload adds an upload. Uploads come in their order.
func (l *Log) Upload(u Upload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploads = append(l.uploads, u)
}

// Turn adds a change of owners. Those of one service come in their order.
func (l *Log) Turn(t Turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turns == nil {
		l.turns = map[descriptor.Address][]Turn{}
	}
	l.turns[t.Service] = append(l.turns[t.Service], t)
}

// Learnt says that a manager knows now which services are others', and that nothing that it
// uploaded before is in flight any more.
func (l *Log) Learnt(at time.Time, manager string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.learnt = append(l.learnt, learnt{at, manager})
}

// Visit adds a visit.
func (l *Log) Visit(v Visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.visits = append(l.visits, v)
}

// Visits counts the visits from a moment on, and returns those that were lost.
func (l *Log) Visits(from time.Time) (count int, lost []Visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.visits {
		if v.At.Before(from) {
			continue
		}
		if count++; v.Err != nil {
			lost = append(lost, v)
		}
	}
	return count, lost
}

// Uploads returns what arrived from a moment on.
func (l *Log) Uploads(from time.Time) (list []Upload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range l.uploads {
		if !u.At.Before(from) {
			list = append(list, u)
		}
	}
	return list
}

// Shares returns how many services each owner has now, by the store.
func (l *Log) Shares() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	shares := map[string]int{}
	for _, turns := range l.turns {
		shares[turns[len(turns)-1].Owner]++
	}
	return shares
}

// Vacant returns the longest time from a moment on for which a service had no owner.
func (l *Log) Vacant(from time.Time) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, turns := range l.turns {
		var since time.Time
		for _, t := range turns {
			switch {
			case t.At.Before(from):
			case t.Owner == "":
				since = t.At
			case !since.IsZero():
				longest, since = max(longest, t.At.Sub(since)), time.Time{}
			}
		}
	}
	return longest
}

// Gap returns the longest time that one of the services was without an upload that an HSDir
// stored, of those that ended between two moments or go on at the second (V4).
func (l *Log) Gap(services []descriptor.Address, from, to time.Time) (longest time.Duration, of descriptor.Address) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := map[descriptor.Address]time.Time{}
	look := func(a descriptor.Address, until time.Time) {
		if d := until.Sub(last[a]); d > longest {
			longest, of = d, a
		}
	}
	for _, u := range l.uploads {
		if !u.Stored || u.At.After(to) {
			continue
		}
		if _, known := last[u.Service]; known && u.At.After(from) {
			look(u.Service, u.At)
		}
		last[u.Service] = u.At
	}
	for _, a := range services {
		look(a, to) // since the year 1 if there was none
	}
	return longest, of
}

// Breach is a promise that was not kept.
type Breach struct {
	Rule string // "V1"
	Text string
}

func (b Breach) String() string { return b.Rule + ": " + b.Text }

// Count counts breaches by rule.
func Count(list []Breach) map[string]int {
	out := map[string]int{}
	for _, b := range list {
		out[b.Rule]++
	}
	return out
}

const (
	// attributeFor is how much later than what a new owner uploads first the store may be seen
	// to have it.
	attributeFor = time.Second
	// leftFor is for how long after a turn there may arrive what its owner had handed to its
	// tor in an earlier term, and a tor cannot be told to forget.
	leftFor = 3 * time.Second
)

// series is what one descriptor has one counter for: a service in a period.
type series struct {
	service descriptor.Address
	period  descriptor.BlindedPublicKey
}

// slot is where an HSDir keeps a descriptor.
type slot struct {
	series
	hsdir string
}

// Breaches returns what V1, V2, V3 and V5 forbid and happened, and uploads of managers that
// never owned the service (V0).
func (l *Log) Breaches() (list []Breach) {
	l.mu.Lock()
	defer l.mu.Unlock()
	breach := func(rule, format string, args ...any) {
		list = append(list, Breach{rule, fmt.Sprintf(format, args...)})
	}
	spans := map[series]map[uint64]*span{}
	terms := map[series]map[uint64]uint64{} // of counters
	stored := map[slot]Upload{}
	for _, u := range l.uploads {
		of := series{u.Service, u.Period}
		if u.Term == 0 {
			if u.Term = l.termLocked(u, spans[of]); u.Term == 0 {
				breach("V0", "%s: %s uploads what it never owned", u.Service.Short(), u.Manager)
				continue
			}
		}
		if spans[of] == nil {
			spans[of], terms[of] = map[uint64]*span{}, map[uint64]uint64{}
		}
		if before, used := terms[of][u.Counter]; used && before != u.Term {
			breach("V1", "%s: terms %d and %d used the same counter", u.Service.Short(), before, u.Term)
		}
		terms[of][u.Counter] = u.Term
		spans[of][u.Term] = spans[of][u.Term].with(u.Counter)
		if at := (slot{of, u.HSDir}); u.Stored {
			if before := stored[at]; u.Term < before.Term {
				breach("V3", "%s: %s of %s stored over term %d of %s, which it had for %s", u.Service.Short(), ordinal(u.Term), u.Manager, before.Term, before.Manager, u.At.Sub(before.At))
			}
			stored[at] = u
		}
		if at, over := l.overLocked(u); over {
			breach("V5", "%s: %s uploads in %s, %s after it knew that this was over", u.Service.Short(), u.Manager, ordinal(u.Term), u.At.Sub(at))
		}
	}
	for of, all := range spans {
		var highest, last uint64
		for _, term := range slices.Sorted(maps.Keys(all)) {
			if s := all[term]; s.lowest <= highest && last != 0 {
				breach("V2", "%s: counters of terms %d and %d overlap", of.service.Short(), last, term)
			}
			highest, last = max(highest, all[term].highest), term
		}
	}
	slices.SortStableFunc(list, func(a, b Breach) int { return cmp.Compare(a.Rule, b.Rule) })
	return list
}

func ordinal(term uint64) string { return fmt.Sprintf("term %d", term) }

// span is the counters of a term.
type span struct{ lowest, highest uint64 }

func (s *span) with(counter uint64) *span {
	if s == nil {
		return &span{counter, counter}
	}
	return &span{min(s.lowest, counter), max(s.highest, counter)}
}

// termLocked returns the last term of a service that a manager had when an upload of it
// arrived, 0 if it had none. Right after a turn it is the one before, if an HSDir refused the
// upload, and the counter is not above what the terms before have used: such an upload is left
// over. What is stored, or arrives later, counts for the later term, whose counters it is not
// above.
func (l *Log) termLocked(u Upload, used map[uint64]*span) (term uint64) {
	for _, t := range l.turns[u.Service] {
		if t.Owner != u.Manager || t.At.After(u.At.Add(attributeFor)) {
			continue
		}
		if term == 0 || u.Stored || u.At.Sub(t.At) >= leftFor || u.Counter > highestBelow(used, t.Term) {
			term = t.Term
		}
	}
	return term
}

// highestBelow returns the highest counter of the terms before one.
func highestBelow(used map[uint64]*span, term uint64) (highest uint64) {
	for t, s := range used {
		if t < term {
			highest = max(highest, s.highest)
		}
	}
	return highest
}

// overLocked reports whether an upload is of a term that its manager knew to be over, and
// since when.
func (l *Log) overLocked(u Upload) (since time.Time, over bool) {
	for _, k := range l.learnt {
		if k.manager != u.Manager || !u.At.After(k.at) {
			continue
		}
		for _, t := range l.turns[u.Service] {
			if t.Term > u.Term && !t.At.After(k.at) {
				return k.at, true
			}
		}
	}
	return time.Time{}, false
}
