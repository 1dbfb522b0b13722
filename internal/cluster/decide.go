package cluster

import (
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
	// staysFor is for how long a service is not given again that the other did not take.
	staysFor = time.Hour
	// backWait is for how long nobody takes a service whose record was lost, or put back to
	// what it was before: the manager that publishes it writes it again.
	backWait = 30 * time.Second
	// disownWait is how much longer those wait who may take a service whose owner lives but
	// does not say that it can certify it: it gives it away by itself, unless it is another
	// process that knows nothing of it.
	disownWait = time.Minute
)

// decision is what a turn is to do.
type decision struct {
	take    []*service // nobody alive owns them, and this manager should
	lost    []*service // another owns them, and this one still publishes them
	again   []*service // this manager publishes them, and their records were lost or put back
	give    []*service // this manager owns them, and should not
	orphans []descriptor.Address
	waiting bool // for others who should take services, or for the store
}

// decideLocked says what to do. It changes nothing but what services are decided by, since
// when they are free, and how many may move, and forgets those that the configuration does
// not have any more. The caller holds turns, too.
func (c *Cluster) decideLocked(now time.Time) (d decision) {
	members := c.aliveLocked(now)
	alive := map[string]*Member{}
	for _, m := range members {
		alive[m.Manager] = m
	}
	joined := alive[c.cfg.Manager] != nil
	var movable []*service
	for a, s := range c.services {
		if s.Lacking == errNotWanted && s.running == 0 && s.owner != c.cfg.Manager {
			delete(c.services, a)
			continue
		}
		s.decided = tenure{s.owner, s.term}
		owner := alive[s.owner]
		ranking := rank(members, &s.Service)
		mine := slices.IndexFunc(ranking, func(r ranked) bool { return r.manager == c.cfg.Manager })
		switch {
		case s.running != 0 && s.damage == nil && (s.version == 0 || s.term < s.running):
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
			case mine > 0 && ranking[0].tier == tierFit && !now.Before(s.stays):
				movable = append(movable, s)
			}
		case s.damage != nil, !joined:
		case now.Sub(s.back) < backWait:
			d.waiting = true
		case s.owner == c.cfg.Manager && (mine < 0 || ranking[0].tier < ranking[mine].tier):
			d.give = append(d.give, s) // for another to take it
		case s.owner == c.cfg.Manager: // an earlier process of this manager
			d.take = append(d.take, s)
		case owner != nil && (owner.can(&s.Service) || len(ranking) == 0):
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
			wait := time.Duration(mine) * rankWait
			if owner != nil {
				wait += disownWait
			}
			if now.Sub(s.free) < wait {
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
		for _, s := range movable {
			s.given = now
		}
	}
	d.give = append(d.give, movable...)
	for _, list := range [][]*service{d.take, d.lost, d.again, d.give} {
		slices.SortFunc(list, byAddress)
	}
	slices.SortFunc(d.orphans, compareAddresses)
	return d
}
