package sim

import (
	"bytes"
	"crypto/sha3"
	"encoding/binary"
	"slices"
	"sort"

	"onionbalancer/descriptor"
)

// ringKey names a hash ring: a time period and a shared random value.
type ringKey struct {
	period descriptor.Period
	random [32]byte
}

// ring is the HSDirs of a consensus in the order of their indexes
// (rend-spec-v3, section 2.2.3).
type ring struct {
	key     ringKey
	hsdirs  []*Relay
	indexes [][32]byte
}

// first, second and current are the rings to which services send their two
// descriptors, and the one of them that clients fetch from.
func (c *Consensus) first() *ring {
	period := c.Period()
	if c.betweenPeriodAndRun() {
		period = period.Previous()
	}
	return c.ring(period, c.SharedRandomPrevious)
}

func (c *Consensus) second() *ring {
	period := c.Period()
	if !c.betweenPeriodAndRun() {
		period = period.Next()
	}
	return c.ring(period, c.SharedRandomCurrent)
}

func (c *Consensus) current() *ring {
	if c.betweenPeriodAndRun() {
		return c.second()
	}
	return c.first()
}

func (c *Consensus) ring(period descriptor.Period, random *[32]byte) *ring {
	key := ringKey{period: period}
	if random != nil {
		key.random = *random
	} else {
		key.random = disasterValue(period)
	}
	if r := c.rings[key]; r != nil {
		return r
	}
	r := &ring{key: key}
	for _, relay := range c.Relays {
		if relay.hsdir {
			r.hsdirs = append(r.hsdirs, relay)
		}
	}
	slices.SortFunc(r.hsdirs, func(a, b *Relay) int {
		x, y := a.index(key), b.index(key)
		return bytes.Compare(x[:], y[:])
	})
	for _, relay := range r.hsdirs {
		r.indexes = append(r.indexes, *relay.index(key))
	}
	c.rings[key] = r
	return r
}

// index is the relay's place in a ring; the last few are remembered.
func (r *Relay) index(key ringKey) *[32]byte {
	for i := range r.indexes {
		if r.indexes[i].ring == key {
			return &r.indexes[i].index
		}
	}
	copy(r.indexes[1:], r.indexes[:])
	r.indexes[0].ring = key
	r.indexes[0].index = hash("node-idx", r.identity[:], key.random[:],
		int8Bytes(key.period.Number), int8Bytes(key.period.Minutes()))
	return &r.indexes[0].index
}

// responsible returns, in order, the HSDirs for a blinded key: spread of them
// for every replica, none of them twice.
func (r *ring) responsible(blinded descriptor.BlindedPublicKey, replicas, spread int) []*Relay {
	var chosen []*Relay
	if len(r.hsdirs) == 0 {
		return nil
	}
	for replica := 1; replica <= replicas; replica++ {
		place := hash("store-at-idx", blinded[:], int8Bytes(uint64(replica)),
			int8Bytes(r.key.period.Minutes()), int8Bytes(r.key.period.Number))
		start := sort.Search(len(r.indexes), func(i int) bool { return bytes.Compare(r.indexes[i][:], place[:]) >= 0 })
		for step, added := 0, 0; step < len(r.hsdirs) && added < spread; step++ {
			relay := r.hsdirs[(start+step)%len(r.hsdirs)]
			if !slices.Contains(chosen, relay) {
				chosen = append(chosen, relay)
				added++
			}
		}
	}
	return chosen
}

// store and fetch are the HSDirs that services and clients use.
func (r *ring) store(cfg *Config, blinded descriptor.BlindedPublicKey) []*Relay {
	return r.responsible(blinded, int(cfg.param("hsdir_n_replicas", 2)), int(cfg.param("hsdir_spread_store", 4)))
}

func (r *ring) fetch(cfg *Config, blinded descriptor.BlindedPublicKey) []*Relay {
	return r.responsible(blinded, int(cfg.param("hsdir_n_replicas", 2)), int(cfg.param("hsdir_spread_fetch", 3)))
}

// disasterValue stands in for a shared random value that does not exist.
func disasterValue(p descriptor.Period) [32]byte {
	return hash("shared-random-disaster", int8Bytes(p.Minutes()), int8Bytes(p.Number))
}

func hash(label string, parts ...[]byte) [32]byte {
	h := sha3.New256()
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

func int8Bytes(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
