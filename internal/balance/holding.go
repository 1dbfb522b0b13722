package balance

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/selection"
)

// holding is what a slot holds: contents, and whose introduction points these are.
// Slots that hold the same share one.
type holding struct {
	*descriptor.Contents
	owners []descriptor.Address // of each point the instance
}

// keys returns the authentication keys of the points, in their order. h may be nil.
func (h *holding) keys() [][32]byte {
	if h == nil {
		return nil
	}
	keys := make([][32]byte, len(h.IntroductionPoints))
	for n := range keys {
		keys[n] = h.IntroductionPoints[n].AuthKey
	}
	return keys
}

// owns reports whether the instance has a point in h, which may be nil.
func (h *holding) owns(a descriptor.Address) bool { return h != nil && slices.Contains(h.owners, a) }

// empty reports whether h, which may be nil, has no points.
func (h *holding) empty() bool { return h == nil || len(h.IntroductionPoints) == 0 }

// remaining returns what is left of h, which may be nil: the points that have not
// expired, as far as there is room, for the clients that are authorized now. It is nil
// if there are none.
func (h *holding) remaining(v View) *holding {
	if h == nil {
		return nil
	}
	contents := *h.Contents
	left := &holding{&contents, nil}
	left.Clients, left.CAA, left.CAACritical = v.Config.Clients, v.Config.CAA, v.Config.caaCritical()
	left.IntroductionPoints = nil
	for n, p := range h.IntroductionPoints {
		if v.Now.Before(p.Expires) && len(left.owners) < v.room().Points {
			left.IntroductionPoints = append(left.IntroductionPoints, p)
			left.owners = append(left.owners, h.owners[n])
		}
	}
	if left.empty() {
		return nil
	}
	return left
}

// place is an HSDir with what it holds, or should hold.
type place struct {
	hsdir.Slot
	holding *holding
	leftAt  int64 // of a slot that Left: the seconds of the first consensus without it
}

// given returns what the HSDirs of slots were last given. own says whether from are
// the places of the same period; then what an HSDir has is its own, and one that is
// new gets what one had that left, of the same replica if there is one. Else the slots
// get what those of the other period have, one by one.
func given(slots []hsdir.Slot, from []place, own bool) []*holding {
	unknown := func(p place) bool { return p.holding == nil } // of a record, an HSDir that left
	if slices.ContainsFunc(from, unknown) {
		from = slices.DeleteFunc(slices.Clone(from), unknown)
	}
	list := make([]*holding, len(slots))
	var done [2][]bool // of slots and of from
	done[0], done[1] = make([]bool, len(slots)), make([]bool, len(from))
	pair := func(match func(hsdir.Slot, place) bool) {
		for n, s := range slots {
			for m, p := range from {
				if !done[0][n] && !done[1][m] && match(s, p) {
					list[n], done[0][n], done[1][m] = p.holding, true, true
				}
			}
		}
	}
	if own {
		pair(func(s hsdir.Slot, p place) bool { return s.HSDir == p.HSDir })
	}
	pair(func(s hsdir.Slot, p place) bool { return !p.Left && s.Replica == p.Replica })
	pair(func(_ hsdir.Slot, p place) bool { return !p.Left })
	for n := range slots {
		if !done[0][n] && len(from) > 0 {
			list[n] = from[n%len(from)].holding
		}
	}
	return list
}

// Relays that left the ring go on serving clients with an older consensus.
const (
	leftFor  = 2 // consensuses
	leftMost = 4 // slots
)

// left returns the places whose HSDirs are no longer in slots, and which clients may
// still ask.
func (v View) left(slots []hsdir.Slot, from []place) (list []place) {
	for _, p := range from {
		if slices.ContainsFunc(slots, func(s hsdir.Slot) bool { return s.HSDir == p.HSDir }) {
			continue
		}
		if p.HSDir == ([20]byte{}) { // it stands for all, in a record
			continue
		}
		if !p.Left {
			p.Left, p.Reserve, p.leftAt = true, true, v.valid[0].Unix()
		}
		if v.valid[0].Before(time.Unix(p.leftAt, 0).Add(leftFor * v.interval())) {
			list = append(list, p)
		}
	}
	slices.SortStableFunc(list, func(a, b place) int { return int(b.leftAt - a.leftAt) })
	return list[:min(len(list), leftMost)]
}

// interval returns the time between two consensuses.
func (v View) interval() time.Duration { return v.valid[1].Sub(v.valid[0]) - v.outdated }

// dealer makes the holdings of a plan, one for each list of points.
type dealer struct {
	v     View
	flow  uint64
	owner map[string]descriptor.Address
	dealt []dealt
	rests map[*holding]*holding // what is left of them
}

type dealt struct {
	points  []selection.Candidate
	sum     uint64 // of the beginnings of their keys
	holding *holding
}

func newDealer(v View, flow uint64) *dealer {
	d := &dealer{v: v, flow: flow, owner: make(map[string]descriptor.Address, len(v.Config.Instances))}
	for _, i := range v.Config.Instances {
		d.owner[i.Name] = i.Address
	}
	return d
}

// holding returns the holding with the points; nil for none. The order of points means
// nothing to clients, so slots with the same ones have them in the same order.
func (d *dealer) holding(points []selection.Candidate) *holding {
	if len(points) == 0 {
		return nil
	}
	var sum uint64
	for _, c := range points {
		sum += binary.BigEndian.Uint64(c.Point.AuthKey[:])
	}
	for _, known := range d.dealt {
		if known.sum == sum && samePoints(known.points, points) {
			return known.holding
		}
	}
	h := &holding{contents(points, d.v, d.flow), make([]descriptor.Address, len(points))}
	for n, c := range points {
		h.owners[n] = d.owner[c.Instance]
	}
	d.dealt = append(d.dealt, dealt{points, sum, h})
	return h
}

// samePoints reports whether two lists, each without repetition, have the same candidates.
func samePoints(a, b []selection.Candidate) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x selection.Candidate) bool {
		return !slices.ContainsFunc(b, func(y selection.Candidate) bool { return x.Point == y.Point })
	})
}

// rest returns what is left of h.
func (d *dealer) rest(h *holding) *holding {
	if d.rests == nil {
		d.rests = make(map[*holding]*holding)
	}
	left, known := d.rests[h]
	if !known {
		left = h.remaining(d.v)
		d.rests[h] = left
	}
	return left
}

// chosen lists the points of all holdings, each once.
func (d *dealer) chosen() []selection.Candidate {
	if len(d.dealt) == 1 {
		return d.dealt[0].points
	}
	var list []selection.Candidate
	known := make(map[*descriptor.IntroductionPoint]bool)
	for _, of := range d.dealt {
		for _, c := range of.points {
			if !known[c.Point] {
				known[c.Point] = true
				list = append(list, c)
			}
		}
	}
	return list
}

// inOrderOfHSDir returns the places by fingerprint, so that two managers list them alike.
func inOrderOfHSDir(places []place) []place {
	return slices.SortedFunc(slices.Values(places), func(a, b place) int { return bytes.Compare(a.HSDir[:], b.HSDir[:]) })
}
