package hsdir

import (
	"bytes"
	"slices"
	"sync"

	"onionbalancer/descriptor"
)

// cachedRings is how many rings an indexCache remembers: two are in use, and
// at a change of period or shared random value one more comes in.
const cachedRings = 3

// indexKey is what places the relays in a ring.
type indexKey struct {
	sharedRandom [32]byte
	period       descriptor.Period
}

// indexCache remembers where relays are in the latest rings, so that a new
// consensus costs hashes only for relays that are new. It is shared by the
// consensuses that one Parser made. The zero value is ready for use.
type indexCache struct {
	mu    sync.Mutex
	rings []cachedIndexes // latest used first
}

type cachedIndexes struct {
	key     indexKey
	relays  []Relay    // by fingerprint
	indexes [][32]byte // of relays
}

// get returns the indexes of relays, which are sorted by fingerprint. Neither
// slice may be changed afterwards.
func (c *indexCache) get(key indexKey, relays []Relay) [][32]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var old cachedIndexes
	at := slices.IndexFunc(c.rings, func(r cachedIndexes) bool { return r.key == key })
	if at >= 0 {
		old = c.rings[at]
		c.rings = slices.Delete(c.rings, at, at+1)
	}
	fresh := cachedIndexes{key, relays, old.update(key, relays)}
	c.rings = slices.Insert(c.rings, 0, fresh)
	if len(c.rings) > cachedRings {
		c.rings = slices.Delete(c.rings, cachedRings, len(c.rings))
	}
	return fresh.indexes
}

// update returns the indexes of relays, taking over those of relays that were
// there before with the same identities. Both lists are sorted alike, so one
// walk over both is enough.
func (old cachedIndexes) update(key indexKey, relays []Relay) [][32]byte {
	indexes := make([][32]byte, len(relays))
	at := 0
	for i := range relays {
		r := &relays[i]
		for at < len(old.relays) && bytes.Compare(old.relays[at].Fingerprint[:], r.Fingerprint[:]) < 0 {
			at++
		}
		if at < len(old.relays) && old.relays[at].Fingerprint == r.Fingerprint && old.relays[at].Ed25519 == r.Ed25519 {
			indexes[i] = old.indexes[at]
		} else {
			indexes[i] = hsdirIndex(r.Ed25519, key.sharedRandom, key.period)
		}
	}
	return indexes
}
