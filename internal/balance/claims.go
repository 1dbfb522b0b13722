package balance

import (
	"maps"
	"math/rand/v2"
	"slices"

	"onionbalancer/descriptor"
)

// A descriptor proves nothing about the keys of its introduction points: the
// instance certifies any 32 bytes, and finds those of the others in the public
// descriptor. So a key belongs to the instance at which it was first seen in a
// period. Claims are kept for one period, in which tor never gives a point's
// keys up for later use, and survive a restart.

// claims says which instance has which key, an authentication or an encryption
// key. Keys of both kinds share one name space: none is ever right as both.
type claims struct {
	period descriptor.Period
	keys   map[[32]byte]descriptor.Address // to the instance
}

func newClaims(p descriptor.Period) *claims {
	return &claims{period: p, keys: make(map[[32]byte]descriptor.Address)}
}

// note gives the keys that nobody has to the instances that offer them, and
// reports whether there were any. Of instances that begin to offer the same keys
// at the same time, chance decides for one.
func (c *claims) note(instances []*instance, random *rand.Rand) (changed bool) {
	for _, n := range random.Perm(len(instances)) {
		for _, p := range instances[n].offer.points {
			for _, key := range [][32]byte{p.AuthKey, p.EncKey} {
				if _, known := c.keys[key]; !known {
					c.keys[key] = instances[n].Address
					changed = true
				}
			}
		}
	}
	return changed
}

// unknown reports whether one of the points on offer has a key that is nobody's.
func (c *claims) unknown(o offer) bool {
	return slices.ContainsFunc(o.points, func(p descriptor.IntroductionPoint) bool {
		_, auth := c.keys[p.AuthKey]
		_, enc := c.keys[p.EncKey]
		return !auth || !enc
	})
}

// forget frees the keys of instances that are gone: whoever was taken out for
// having stolen them must not go on having them.
func (c *claims) forget(stays func(descriptor.Address) bool) {
	maps.DeleteFunc(c.keys, func(_ [32]byte, owner descriptor.Address) bool { return !stays(owner) })
}

// thief returns the instance that has one of p's keys, if that is another than
// owner.
func (c *claims) thief(owner descriptor.Address, p *descriptor.IntroductionPoint) (victim descriptor.Address, stolen bool) {
	for _, key := range [][32]byte{p.AuthKey, p.EncKey} {
		if first, known := c.keys[key]; known && first != owner {
			return first, true
		}
	}
	return victim, false
}

// Claim is a key of introduction points and the instance that it belongs to, for
// the Store.
type Claim struct {
	Key      []byte             `json:"key"` // 32 bytes
	Instance descriptor.Address `json:"instance"`
	Period   uint64             `json:"period"`
	Minutes  uint64             `json:"period_length_minutes"`
}

// list returns the claims in a stable order.
func (c *claims) list() []Claim {
	list := make([]Claim, 0, len(c.keys))
	for key, owner := range c.keys {
		list = append(list, Claim{key[:], owner, c.period.Number, c.period.Minutes()})
	}
	slices.SortFunc(list, func(a, b Claim) int { return slices.Compare(a.Key, b.Key) })
	return list
}

// restore takes in what is stored for the period of c.
func (c *claims) restore(list []Claim) {
	for _, k := range list {
		if len(k.Key) == 32 && k.Period == c.period.Number && k.Minutes == c.period.Minutes() {
			c.keys[[32]byte(k.Key)] = k.Instance
		}
	}
}
