package balance

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
)

// change says how what slots should hold differs from what they do, and so how soon
// it is published. One change in any slot makes an edition for all of them, so those
// that are not urgent are gathered.
type change int

const (
	changeNone    change = iota
	changeAdded          // nothing that is published died
	changeRemoved        // points that are published died
	changeUrgent         // all points are others than clients may use, or what is beside the points changed
	changeDead           // no point of a slot that clients ask lives
)

// Within these times after an edition for changes of one kind, more such changes are
// gathered. The first is published at once.
const (
	gatherAdded   = 5 * time.Minute
	gatherRemoved = 30 * time.Second
)

// changeSince compares what t's slots should hold with what they do.
func (t *Target) changeSince(last *Edition, pool *pool) (most change) {
	var alive map[[32]byte][]*descriptor.IntroductionPoint
	for _, p := range t.places {
		at := last.slot(p.HSDir)
		if at == nil || sameContents(at.holding.Contents, p.holding.Contents) {
			continue
		}
		if alive == nil {
			alive = t.alive(pool)
		}
		most = max(most, changeOf(at, p.holding, alive))
	}
	return most
}

// changeOf compares what a slot should hold with what it does.
func changeOf(at *slot, next *holding, alive map[[32]byte][]*descriptor.IntroductionPoint) change {
	living := 0
	for n := range at.holding.IntroductionPoints {
		p := &at.holding.IntroductionPoints[n]
		if slices.ContainsFunc(alive[p.AuthKey], func(q *descriptor.IntroductionPoint) bool { return backend.SamePoint(p, q) }) {
			living++
		}
	}
	switch {
	case living == 0 && !at.Reserve:
		return changeDead
	case !sameBeside(at.holding.Contents, next.Contents):
		return changeUrgent
	case living < len(at.holding.IntroductionPoints):
		return changeRemoved
	}
	return changeAdded
}

// alive returns the points that clients may use, by authentication key.
func (t *Target) alive(pool *pool) map[[32]byte][]*descriptor.IntroductionPoint {
	list := make(map[[32]byte][]*descriptor.IntroductionPoint, len(pool.candidates))
	for _, c := range pool.candidates {
		list[c.Point.AuthKey] = append(list[c.Point.AuthKey], c.Point)
	}
	if len(pool.candidates) > 0 {
		return list
	}
	for _, p := range t.places { // what is left of what was published
		for n := range p.holding.IntroductionPoints {
			point := &p.holding.IntroductionPoints[n]
			list[point.AuthKey] = append(list[point.AuthKey], point)
		}
	}
	return list
}

// gathersUntil returns until when a change waits for others; the zero time if it does
// not. Nothing waits for longer than a consensus lasts.
func (v View) gathersUntil(c change, last *Edition) time.Time {
	var since time.Time
	var long time.Duration
	switch c {
	case changeAdded:
		since, long = last.added, gatherAdded
	case changeRemoved:
		since, long = last.removed, gatherRemoved
	}
	if since.IsZero() || v.Now.Before(since) { // the clock was set back
		return time.Time{}
	}
	return since.Add(min(long, v.interval()))
}

// heeds reports whether p publishes what it should without delay. If it does not, a
// change that was urgent still is: it does not wait for fetches afterwards.
func (p *Plan) heeds() bool {
	return p.Waiting == "" && !slices.ContainsFunc(p.Targets, func(t Target) bool { return t.Gathers && t.change >= changeRemoved })
}

// newsMax is how long after a new shared random value an ordinary tor may hear of it:
// tors fetch a consensus up to 111 minutes after the one before was fresh.
const newsMax = 111 * time.Minute

// rotates returns when the first descriptor of a period is due that follows another.
// Clients do not ask for it before noon. The time follows from the period's key, so
// that two managers agree; it is zero unless the service is to look ordinary.
func (v View) rotates(t *Target, s State) time.Time {
	if last := s.last(t.Keys.Period); !v.Config.Ordinary || t.Role == v.Current || last.own || last.places == nil {
		return time.Time{}
	}
	sum := sha256.Sum256(append([]byte("news"), t.Keys.Blinded[:]...))
	return t.Ring.RunStart.Add(time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(newsMax)))
}
