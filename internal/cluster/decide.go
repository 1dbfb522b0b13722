package cluster

import (
	"bytes"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

const (
	// stableFor is how long the members are the same before services move between
	// managers that are both fit: one that flaps moves nothing.
	stableFor = 5 * time.Minute
	// rankWait is how long each but the first of those who may take a service waits for
	// the one before: it may be stuck though its lease lives.
	rankWait = 10 * time.Second
	// giveEvery and giveShare bound how fast services move to whom they should be with:
	// so many of a hundred, or the least number if that is more.
	giveEvery = time.Minute
	giveShare = 2
	giveLeast = 20
	// vanishedWait is for how long nobody takes a service whose record was lost with the
	// store: the manager that publishes it writes it again.
	vanishedWait = 30 * time.Second
)

// decision is what a turn is to do.
type decision struct {
	take    []*service // nobody alive owns them, and this manager should
	lost    []*service // another owns them, and this one still publishes them
	again   []*service // this manager publishes them, and their records were lost with the store
	give    []*service // this manager owns them, and should not
	orphans []descriptor.Address
	waiting bool // for others who should take services, or for the store
}

// decideLocked says what to do. It changes nothing but since when services are free, and
// how many may move.
func (c *Cluster) decideLocked(now time.Time) (d decision) {
	members := c.aliveLocked(now)
	alive := map[string]bool{}
	for _, m := range members {
		alive[m.Manager] = true
	}
	joined := alive[c.cfg.Manager]
	var movable []*service
	for _, s := range c.services {
		ranking := rank(members, &s.Service)
		mine := slices.IndexFunc(ranking, func(r ranked) bool { return r.manager == c.cfg.Manager })
		switch {
		case s.running != 0 && s.version == 0 && s.damage == nil:
			d.again = append(d.again, s)
		case s.running != 0 && (s.owner != c.cfg.Manager || s.term != s.running):
			d.lost = append(d.lost, s)
		case s.running != 0:
			s.free = time.Time{}
			switch {
			case !joined:
			case mine < 0:
				if len(ranking) > 0 || s.Lacking == errNotWanted { // else what it certified is better than nothing
					d.give = append(d.give, s)
				}
			case ranking[0].tier < ranking[mine].tier:
				d.give = append(d.give, s)
			case mine > 0 && ranking[0].tier == tierFit:
				movable = append(movable, s)
			}
		case s.damage != nil, !joined:
		case s.version == 0 && now.Sub(s.vanished) < vanishedWait:
			d.waiting = true
		case s.owner == c.cfg.Manager && (mine < 0 || ranking[0].tier < ranking[mine].tier):
			d.give = append(d.give, s) // for another to take it
		case s.owner == c.cfg.Manager: // an earlier process of this manager
			d.take = append(d.take, s)
		case alive[s.owner]:
			s.free = time.Time{}
		case s.owner != "" && c.lease.justBack(now, c.cfg.Lease):
			d.waiting = true
		case len(ranking) == 0:
			d.orphans = append(d.orphans, s.Address)
		case mine < 0:
		default:
			if s.free.IsZero() {
				s.free = now
			}
			if now.Sub(s.free) < time.Duration(mine)*rankWait {
				d.waiting = true
			} else {
				d.take = append(d.take, s)
			}
		}
	}
	slices.SortFunc(movable, byAddress)
	if now.Sub(c.stable) < stableFor || now.Sub(c.moved) < giveEvery || len(movable) == 0 {
		movable = nil
	} else {
		c.moved = now
		movable = movable[:min(len(movable), max(giveLeast, len(c.services)*giveShare/100))]
	}
	d.give = append(d.give, movable...)
	for _, list := range [][]*service{d.take, d.lost, d.again, d.give} {
		slices.SortFunc(list, byAddress)
	}
	slices.SortFunc(d.orphans, func(a, b descriptor.Address) int { return bytes.Compare(a[:], b[:]) })
	return d
}
