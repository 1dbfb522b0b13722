package main

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sort"

	"onionbalancer/selection"
)

// edition is what all HSDirs have from a time on: the points of each slot that
// clients ask.
type edition struct {
	at      float64
	asked   [][]*life
	changed bool // in any slot
	came    int  // points that were not in their slot before
}

// manager publishes editions of the points of a fleet.
type manager struct {
	strategy selection.Strategy
	room     selection.Room
	slots    []selection.Slot
	turn     uint64
}

const (
	lag      = 2 // minutes until the manager has seen what an instance published
	gathered = 5 // minutes for which points that are added wait for others
)

// slots are those of a descriptor: one for all HSDirs alike, or the eight.
func slots(distinct bool) []selection.Slot {
	if !distinct {
		return []selection.Slot{{Replica: 1, Asked: true}}
	}
	var slots []selection.Slot
	for position := range spreadStore {
		for replica := range replicas {
			slots = append(slots, selection.Slot{Replica: replica + 1, Asked: position < spreadFetch})
		}
	}
	return slots
}

// publish returns the editions of the descriptor's day, and some before. What is gone
// goes out at once, what is added waits for others of the same minutes, and every 60
// to 120 minutes everything may change.
func (m *manager) publish(r *rand.Rand, f *fleet) (editions []edition) {
	var known []*life
	var use map[*life]float64
	refresh, added := 0.0, 0.0
	for t := 0.0; t < dayEnds; t++ {
		f.step(t, use)
		if t < dayBegins-hour { // nobody asks for this descriptor yet
			continue
		}
		offered := f.offered(t - lag)
		gone := slices.ContainsFunc(known, func(l *life) bool { return !slices.Contains(offered, l) })
		if added == 0 && slices.ContainsFunc(offered, func(l *life) bool { return !slices.Contains(known, l) }) {
			added = t + gathered
		}
		if due := t >= refresh; due || gone || added > 0 && t >= added {
			known, added = offered, 0
			e := edition{at: t}
			e.changed, e.came = m.assign(r, offered, t, due)
			if due {
				refresh = t + 60 + 60*r.Float64()
			}
			if e.changed || due {
				e.asked = m.asked(offered)
				editions = append(editions, e)
			}
		}
		if t >= dayBegins && f.spent > 0 {
			use = editions[len(editions)-1].use()
		}
	}
	return editions
}

// asked are the points of the slots that clients ask, which are all offered.
func (m *manager) asked(offered []*life) (asked [][]*life) {
	for _, slot := range m.slots {
		if !slot.Asked {
			continue
		}
		var points []*life
		for _, key := range slot.Holds {
			i := slices.IndexFunc(offered, func(l *life) bool { return l.point.AuthKey == key })
			points = append(points, offered[i])
		}
		asked = append(asked, points)
	}
	return asked
}

// use is the part of an instance's load that each point takes, 1 for one that has
// all of it.
func (e edition) use() map[*life]float64 {
	use, whole := make(map[*life]float64), make(map[int]float64)
	for _, points := range e.asked {
		for _, l := range points {
			part := 1 / float64(len(points)*len(e.asked))
			use[l] += part
			whole[l.instance] += part
		}
	}
	for l := range use {
		use[l] /= whole[l.instance]
	}
	return use
}

// assign has the strategy choose, and reports whether any slot changed, and how many
// points are new in those that clients ask.
func (m *manager) assign(r *rand.Rand, offered []*life, t float64, refresh bool) (changed bool, came int) {
	if c, ok := m.strategy.(*changing); ok && refresh {
		c.salt = r.Uint64()
	}
	request := selection.Request{Now: clock(t), Slots: m.slots, Room: m.room, Turn: m.turn, Refresh: refresh}
	if refresh {
		m.turn++
	}
	for i := range request.Seed {
		request.Seed[i] = byte(r.Uint32())
	}
	for _, l := range offered {
		request.Candidates = append(request.Candidates, l.candidate())
	}
	a := selection.Assign(m.strategy, request)
	next := slices.Clone(m.slots)
	for i, points := range a.Points {
		next[i].Holds = nil
		for _, c := range points {
			next[i].Holds = append(next[i].Holds, c.Point.AuthKey)
			if next[i].Asked && !slices.Contains(m.slots[i].Holds, c.Point.AuthKey) {
				came++
			}
		}
		changed = changed || !sameKeys(next[i].Holds, m.slots[i].Holds)
	}
	m.slots = next
	return changed, came
}

// sameKeys compares sets: the order of points means nothing to clients.
func sameKeys(a, b [][32]byte) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	for _, keys := range [][][32]byte{a, b} {
		slices.SortFunc(keys, func(x, y [32]byte) int { return bytes.Compare(x[:], y[:]) })
	}
	return slices.Equal(a, b)
}

// at returns the edition that HSDirs have at t.
func at(editions []edition, t float64) edition {
	return editions[sort.Search(len(editions), func(i int) bool { return editions[i].at > t })-1]
}

// crowd is how clients of a service behave.
type crowd struct {
	clients     int
	stay, every float64 // mean minutes that one keeps coming, and between its visits
}

// met is what the visits of a crowd came to.
type met struct {
	visits, dead, withDead, refetched, failed float64
	byHour                                    [(dayEnds - dayBegins) / hour]struct{ visits, dead float64 }
}

// marked is for how long a client takes a point that failed to be dead (hs_cache.h,
// HS_CACHE_CLIENT_INTRO_STATE_MAX_AGE), in minutes.
const marked = 2

// visit has the crowd come over the day. A client keeps its first descriptor until
// no point of it is usable, and no longer than the day.
func (c crowd) visit(r *rand.Rand, editions []edition, m *met) {
	for range c.clients {
		t := dayBegins + r.Float64()*(dayEnds-dayBegins)
		end := min(dayEnds, t+r.ExpFloat64()*c.stay)
		fetch := func() []*life { asked := at(editions, t).asked; return asked[r.IntN(len(asked))] }
		descriptor, bad := fetch(), make(map[*life]float64)
		for ; t < end; t += r.ExpFloat64() * c.every {
			dead, refetched, served := 0.0, false, false
			for !served {
				usable := slices.DeleteFunc(slices.Clone(descriptor), func(l *life) bool { return bad[l] > t })
				if len(usable) == 0 && refetched { // tor tries no second HSDir in one visit
					m.failed++
					break
				}
				if len(usable) == 0 {
					descriptor, refetched = fetch(), true
					m.refetched++
					continue
				}
				l := usable[r.IntN(len(usable))]
				if served = l.lives(t); !served {
					bad[l] = t + marked
					dead++
				}
			}
			h := &m.byHour[int(t-dayBegins)/hour]
			h.visits, h.dead = h.visits+1, h.dead+dead
			m.visits, m.dead = m.visits+1, m.dead+dead
			if dead > 0 {
				m.withDead++
			}
		}
	}
}
