package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"onionbalancer/descriptor"
)

// score is how high a manager ranks for a service, by rendezvous hashing: each manager
// ranks first for as many services as any other, and when one comes or goes only the
// services move that it ranks first for.
func score(manager string, a descriptor.Address) [32]byte {
	return sha256.Sum256(append(append([]byte(manager), 0), a[:]...))
}

// tier says how willing a member is to own services; a lower one comes first.
type tier int

const (
	tierFit tier = iota
	tierUnfit
	tierDraining
)

func (m *Member) tier() tier {
	switch {
	case m.Draining:
		return tierDraining
	case m.Unfit != "":
		return tierUnfit
	}
	return tierFit
}

// ranked is a member in the order in which members own a service.
type ranked struct {
	manager string
	tier    tier
}

// rank lists the members that can certify a service, the one first that should own it.
func rank(members []*Member, s *Service) []ranked {
	type scored struct {
		ranked
		score [32]byte
	}
	var list []scored
	for _, m := range members {
		if m.can(s) {
			list = append(list, scored{ranked{m.Manager, m.tier()}, score(m.Manager, s.Address)})
		}
	}
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.tier, b.tier), bytes.Compare(b.score[:], a.score[:]))
	})
	out := make([]ranked, len(list))
	for n, s := range list {
		out[n] = s.ranked
	}
	return out
}
