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
	rings []cachedRing // latest used first
}

type cachedRing struct {
	key    indexKey
	relays []Relay // by fingerprint
	nodes  []node  // by index
}

// get returns the ring of relays, which are sorted by fingerprint, as nodes
// sorted by index. Neither slice may be changed afterwards.
func (c *indexCache) get(key indexKey, relays []Relay) []node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var old cachedRing
	at := slices.IndexFunc(c.rings, func(r cachedRing) bool { return r.key == key })
	if at >= 0 {
		old = c.rings[at]
		c.rings = slices.Delete(c.rings, at, at+1)
	}
	nodes := old.update(key, relays)
	c.rings = slices.Insert(c.rings, 0, cachedRing{key, relays, nodes})
	if len(c.rings) > cachedRings {
		c.rings = slices.Delete(c.rings, cachedRings, len(c.rings))
	}
	return nodes
}

// update returns the nodes of relays, taking over those of relays that were
// there before with the same identities.
func (old cachedRing) update(key indexKey, relays []Relay) []node {
	// Both lists are sorted alike, so one walk over both finds what is gone
	// and what is new.
	moved := make([]int32, len(old.relays)) // to its place in relays
	fresh := make([]node, 0, max(0, len(relays)-len(old.relays)))
	at := 0
	for i := range relays {
		r := &relays[i]
		for at < len(old.relays) && bytes.Compare(old.relays[at].Fingerprint[:], r.Fingerprint[:]) < 0 {
			moved[at] = -1
			at++
		}
		if at < len(old.relays) && old.relays[at].Fingerprint == r.Fingerprint && old.relays[at].Ed25519 == r.Ed25519 {
			moved[at] = int32(i)
			at++
			continue
		}
		fresh = append(fresh, node{hsdirIndex(r.Ed25519, key.sharedRandom, key.period), int32(i)})
	}
	for ; at < len(moved); at++ {
		moved[at] = -1
	}
	slices.SortFunc(fresh, compareNodes)
	return merge(old.nodes, moved, fresh)
}

// merge returns the nodes of both sorted lists in order; those of old under
// their new numbers, and without the ones that have none.
func merge(old []node, moved []int32, fresh []node) []node {
	if len(old) == 0 {
		return fresh
	}
	nodes := make([]node, 0, len(old)+len(fresh))
	for _, n := range old {
		if n.relay = moved[n.relay]; n.relay < 0 {
			continue
		}
		for len(fresh) > 0 && compareNodes(fresh[0], n) < 0 {
			nodes = append(nodes, fresh[0])
			fresh = fresh[1:]
		}
		nodes = append(nodes, n)
	}
	return append(nodes, fresh...)
}
