package cluster

import (
	"errors"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// Status is what a Cluster tells of itself.
type Status struct {
	Manager  string
	Joined   bool          // the others see this manager alive
	Lease    time.Duration // of its lease, what is left
	Members  []MemberStatus
	Services int // of the configuration
	Owned    int // by this manager, and published
	Others   int // by live managers
	Orphans  []descriptor.Address
	Draining bool
	Unfit    string
	Counts   Counts
	Troubles []string
}

// MemberStatus is a live manager as this one sees it.
type MemberStatus struct {
	Member
	Silent time.Duration // since its last sign of life
	Skew   time.Duration // by how much its clock is ahead of this one's, roughly
}

// Ownership is who owns a service.
type Ownership struct {
	Owner string // empty: nobody
	Term  uint64
	State string // "owned", "elsewhere", "free", "orphan" or "damaged"; empty: not known yet
}

// Status tells how things are.
func (c *Cluster) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	s := Status{
		Manager: c.cfg.Manager, Joined: c.lease.joined(now, c.cfg.Lease), Services: len(c.services),
		Orphans: slices.Clone(c.orphans), Draining: c.draining, Unfit: c.unfit, Counts: c.counts,
	}
	if s.Joined {
		s.Lease = c.cfg.Lease - now.Sub(c.lease.renewed)
	}
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[name]
		s.Members = append(s.Members, MemberStatus{m.Member, now.Sub(m.beaten), m.skew})
	}
	for _, known := range c.services {
		switch other := c.members[known.owner]; {
		case known.running != 0:
			s.Owned++
		case other != nil && known.owner != c.cfg.Manager && other.alive(now):
			s.Others++
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(c.trouble)) {
		s.Troubles = append(s.Troubles, c.trouble[kind].Error())
	}
	return s
}

// Ownership tells who owns a service of the configuration.
func (c *Cluster) Ownership(a descriptor.Address) Ownership {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.services[a]
	if s == nil {
		return Ownership{}
	}
	o := Ownership{Owner: s.owner, Term: s.term, State: "free"}
	other := c.members[s.owner]
	_, orphan := slices.BinarySearchFunc(c.orphans, a, compareAddresses)
	switch {
	case s.running != 0:
		o.State = "owned"
	case errors.Is(s.damage, ErrUnread):
		o.State = ""
	case s.damage != nil:
		o.State = "damaged"
	case orphan:
		o.State = "orphan"
	case other != nil && s.owner != c.cfg.Manager && other.alive(time.Now()):
		o.State = "elsewhere"
	}
	return o
}
