package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/selection"
)

// change says how what slots should hold differs from what they do, and so how soon
// it is published. One change in any slot makes an edition for all of them, so those
// that are not urgent are gathered.
type change int

const (
	changeNone    change = iota
	changeAdded          // nothing that is published died
	changeRemoved        // points that are published died
	changeScarce         // of a slot's more than a third
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
	loss := lossOf(at.holding.living(alive), len(at.holding.IntroductionPoints), at.Reserve)
	switch {
	case loss == changeDead:
		return changeDead
	case !sameBeside(at.holding.Contents, next.Contents):
		return changeUrgent
	case loss != changeNone:
		return loss
	}
	return changeAdded
}

// living counts the points of h that are alive.
func (h *holding) living(alive map[[32]byte][]*descriptor.IntroductionPoint) (count int) {
	for n := range h.IntroductionPoints {
		p := &h.IntroductionPoints[n]
		if slices.ContainsFunc(alive[p.AuthKey], func(q *descriptor.IntroductionPoint) bool { return backend.SamePoint(p, q) }) {
			count++
		}
	}
	return count
}

// unanswered is how many attempts an HSDir may leave unanswered before what it has is of no
// concern.
const unanswered = 3

// behind says how much is dead of what clients get while last waits for its turn to be
// uploaded. What replaces last is as urgent as that, though it be no worse than last.
func (t *Target) behind(last *Edition, pool *pool) (most change) {
	if last.everywhere() || len(pool.candidates) == 0 {
		return changeNone
	}
	alive := t.alive(pool)
	some, dead := false, true
	for n := range last.slots {
		at := &last.slots[n]
		had := last.had(at.HSDir)
		if at.Reserve || had.empty() {
			continue
		}
		living := had.living(alive)
		some, dead = true, dead && living == 0
		if at.confirmed.IsZero() && at.attempts < unanswered && living < len(had.IntroductionPoints) {
			most = changeRemoved
		}
	}
	if some && dead {
		return changeDead
	}
	return most
}

// lossOf says what it means that so many of all points of a slot live.
func lossOf(living, all int, reserve bool) change {
	switch {
	case living == 0 && !reserve:
		return changeDead
	case 3*living < 2*all:
		return changeScarce
	case living < all:
		return changeRemoved
	}
	return changeNone
}

// alive returns the points that clients may use, by authentication key.
func (t *Target) alive(pool *pool) map[[32]byte][]*descriptor.IntroductionPoint {
	list := make(map[[32]byte][]*descriptor.IntroductionPoint, len(pool.candidates))
	for _, of := range [][]selection.Candidate{pool.candidates, pool.hidden} {
		for _, c := range of {
			list[c.Point.AuthKey] = append(list[c.Point.AuthKey], c.Point)
		}
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
func (v View) gathersUntil(t *Target, last *Edition, pool *pool) time.Time {
	if v.Config.Hosted {
		return v.wantsAt(t, last, pool)
	}
	var since time.Time
	var long time.Duration
	switch t.change {
	case changeAdded:
		since, long = last.added, gatherAdded
		if instances(t.places) >= 2*instances(last.places()) { // most have just started
			long = gatherRemoved
		}
	case changeRemoved, changeScarce:
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

// instances counts those that have a point in any of the places.
func instances(places []place) int {
	known := make(map[descriptor.Address]bool)
	var before *holding
	for _, p := range places {
		if p.holding != before && p.holding != nil {
			for _, a := range p.holding.owners {
				known[a] = true
			}
		}
		before = p.holding
	}
	return len(known)
}
