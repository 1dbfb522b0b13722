package backend

import (
	"maps"
	"math/rand/v2"
	"slices"

	"onionbalancer/descriptor"
)

// A descriptor proves nothing about the keys of its introduction points: an
// instance can certify any 32 bytes, and finds the others' keys in the public
// descriptor. So a key belongs to the instance at which it was first seen in a
// period. Claims are kept for one period, in which tor never reuses a point's
// keys, and survive a restart.

// Claims records which instances offered a key, an authentication or an
// encryption key, the first one first. Keys of both kinds share one name space:
// no key is valid as both.
type Claims map[[32]byte][]descriptor.Address

// unclaimed lists the keys of o that the instance offering them has not claimed
// yet.
func (c Claims) unclaimed(a descriptor.Address, o Offer) (keys [][32]byte) {
	for n := range o.Points {
		for _, key := range [][32]byte{o.Points[n].AuthKey, o.Points[n].EncKey} {
			if !slices.Contains(c[key], a) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Note adds the claims of instances that offer key. The order of those that began
// to offer it at the same time is random.
func (c Claims) Note(key [32]byte, offering []descriptor.Address) {
	for _, n := range rand.Perm(len(offering)) {
		if !slices.Contains(c[key], offering[n]) {
			c[key] = append(c[key], offering[n])
		}
	}
}

// Rivals lists the instances that had one of p's keys before a.
func (c Claims) Rivals(a descriptor.Address, p *Point) (list []descriptor.Address) {
	for _, key := range [][32]byte{p.AuthKey, p.EncKey} {
		for _, other := range c[key] {
			if other == a {
				break
			}
			if !slices.Contains(list, other) {
				list = append(list, other)
			}
		}
	}
	return list
}

// forget releases the claims of an instance that was removed: one that was removed
// for stealing keys must not keep them.
func (c Claims) forget(a descriptor.Address) {
	maps.DeleteFunc(c, func(key [32]byte, list []descriptor.Address) bool {
		c[key] = slices.DeleteFunc(list, func(other descriptor.Address) bool { return other == a })
		return len(c[key]) == 0
	})
}

// offering lists the instances that offer key.
func (s *Set) offering(key [32]byte) (list []descriptor.Address) {
	for a, w := range s.watches {
		if slices.ContainsFunc(w.now.Offer.Points, func(p Point) bool { return p.AuthKey == key || p.EncKey == key }) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b descriptor.Address) int { return slices.Compare(a[:], b[:]) })
	return list
}

// contest determines which of w's keys others had first.
func (s *Set) contest(a descriptor.Address, w *watch) {
	for n := range w.now.Offer.Points {
		p := &w.now.Offer.Points[n]
		if !slices.Equal(s.claims.Rivals(a, p), p.Rivals) {
			w.update(s.rival)
			s.changed(w)
			return
		}
	}
}

// rival fills in which other instances had the keys of b's points first.
func (s *Set) rival(b *Backend) {
	b.Offer.Points = slices.Clone(b.Offer.Points)
	for n := range b.Offer.Points {
		b.Offer.Points[n].Rivals = s.claims.Rivals(b.Address, &b.Offer.Points[n])
	}
}
