package hsdir

import (
	"bytes"
	"cmp"
	"crypto/sha3"
	"encoding/binary"
	"slices"
	"sort"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Ring is the hash ring for one of the two descriptors of every service. It is
// immutable and safe for concurrent use.
type Ring struct {
	Role         Role
	Period       descriptor.Period
	SharedRandom [32]byte
	Disaster     bool      // SharedRandom stands in for a missing value
	RunStart     time.Time // start of the run; revision counters count from here

	params Params
	relays []Relay
	nodes  []node // by index
}

// node is a place in the ring.
type node struct {
	index [32]byte
	relay int32 // in the list of relays
}

// ResponsibleHSDir is an HSDir that is responsible for a descriptor.
type ResponsibleHSDir struct {
	Relay
	Index   [32]byte // its place in the ring
	Replica int      // counted from 1
}

func newRing(c *Consensus, role Role) *Ring {
	r := &Ring{
		Role:     role,
		Period:   c.Period(role),
		RunStart: c.RunStart(role),
		params:   c.Params,
		relays:   c.HSDirs,
	}
	// The first descriptor goes by the older value, the second by the newer.
	srv := c.SharedRandomPrevious
	if role == SecondRole {
		srv = c.SharedRandomCurrent
	}
	if srv == nil {
		r.SharedRandom, r.Disaster = disasterValue(r.Period), true
	} else {
		r.SharedRandom = *srv
	}
	r.nodes = c.indexes.get(indexKey{r.SharedRandom, r.Period}, r.relays)
	return r
}

// compareNodes orders by index. Relays with the same Ed25519 identity share
// one; they stay in the order of the consensus.
func compareNodes(a, b node) int {
	// The first eight bytes nearly always decide, and compare in one step.
	x, y := binary.BigEndian.Uint64(a.index[:]), binary.BigEndian.Uint64(b.index[:])
	if x != y {
		return cmp.Compare(x, y)
	}
	if c := bytes.Compare(a.index[:], b.index[:]); c != 0 {
		return c
	}
	return cmp.Compare(a.relay, b.relay)
}

// MaxDescriptorSize returns the size in bytes at which HSDirs begin to refuse a
// descriptor (HSV3MaxDescriptorSize).
func (r *Ring) MaxDescriptorSize() int { return r.params.MaxDescriptorSize }

// Len returns the number of relays in the ring.
func (r *Ring) Len() int { return len(r.nodes) }

// Store returns the HSDirs to which a service uploads the descriptor of the
// blinded key b: for every replica its HSDirs, nearest first. No HSDir appears
// twice, so that in a small ring a replica may have few or none.
func (r *Ring) Store(b descriptor.BlindedPublicKey) [][]ResponsibleHSDir {
	return r.responsible(b, r.params.SpreadStore)
}

// Fetch returns the HSDirs that a client asks for the descriptor of the
// blinded key b, in the form of Store.
func (r *Ring) Fetch(b descriptor.BlindedPublicKey) [][]ResponsibleHSDir {
	return r.responsible(b, r.params.SpreadFetch)
}

// responsible walks the ring from the place of each replica and takes the
// HSDirs that no earlier replica took, up to spread, but no further than
// once round (rend-spec-v3, section 2.2.3).
func (r *Ring) responsible(b descriptor.BlindedPublicKey, spread int) [][]ResponsibleHSDir {
	replicas := make([][]ResponsibleHSDir, r.params.Replicas)
	taken := make(map[int]bool, len(replicas)*spread)
	for i := range replicas {
		replica := i + 1
		at := hsIndex(b, replica, r.Period)
		start := sort.Search(len(r.nodes), func(n int) bool {
			return bytes.Compare(r.nodes[n].index[:], at[:]) >= 0
		})
		for step := 0; step < len(r.nodes) && len(replicas[i]) < spread; step++ {
			place := (start + step) % len(r.nodes)
			if taken[place] {
				continue
			}
			taken[place] = true
			n := r.nodes[place]
			replicas[i] = append(replicas[i], ResponsibleHSDir{r.relays[n.relay], n.index, replica})
		}
	}
	return replicas
}

// hsIndex is the place of a replica of a descriptor in the ring.
func hsIndex(b descriptor.BlindedPublicKey, replica int, p descriptor.Period) [32]byte {
	buf := make([]byte, 0, 80)
	buf = append(buf, "store-at-idx"...)
	buf = append(buf, b[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(replica))
	buf = binary.BigEndian.AppendUint64(buf, p.Minutes())
	buf = binary.BigEndian.AppendUint64(buf, p.Number)
	return sha3.Sum256(buf)
}

// hsdirIndex is the place of a relay in the ring. Number and length of the
// period come in another order than in hsIndex.
func hsdirIndex(ed25519 [32]byte, srv [32]byte, p descriptor.Period) [32]byte {
	buf := make([]byte, 0, 96)
	buf = append(buf, "node-idx"...)
	buf = append(buf, ed25519[:]...)
	buf = append(buf, srv[:]...)
	buf = binary.BigEndian.AppendUint64(buf, p.Number)
	buf = binary.BigEndian.AppendUint64(buf, p.Minutes())
	return sha3.Sum256(buf)
}

// disasterValue stands in for a shared random value on which the authorities
// could not agree (rend-spec-v3, section 2.2.1; srv-spec, section 3.1.6).
func disasterValue(p descriptor.Period) [32]byte {
	buf := make([]byte, 0, 48)
	buf = append(buf, "shared-random-disaster"...)
	buf = binary.BigEndian.AppendUint64(buf, p.Minutes())
	buf = binary.BigEndian.AppendUint64(buf, p.Number)
	return sha3.Sum256(buf)
}

// Slot is a place where a descriptor goes: an HSDir, for one replica.
type Slot struct {
	HSDir [20]byte // fingerprint
	// Reserve marks a slot that clients do not ask as long as the ring is
	// unchanged: it is a reserve for relays that come and go.
	Reserve bool
	// Left marks a slot, always a Reserve one, whose HSDir is in the ring no more:
	// clients with an older consensus still ask it.
	Left    bool
	Replica int // counted from 1
}

// Slots returns the slots of the descriptor of the blinded key b, in the order
// of priority: first those that clients ask, one of each replica in turn.
func (r *Ring) Slots(b descriptor.BlindedPublicKey) []Slot {
	asked := make(map[[20]byte]bool)
	for _, replica := range r.Fetch(b) {
		for _, h := range replica {
			asked[h.Fingerprint] = true
		}
	}
	var slots, reserve []Slot
	store := r.Store(b)
	for position := range r.params.SpreadStore {
		for _, replica := range store {
			if position >= len(replica) {
				continue
			}
			h := replica[position]
			if s := (Slot{HSDir: h.Fingerprint, Replica: h.Replica, Reserve: !asked[h.Fingerprint]}); s.Reserve {
				reserve = append(reserve, s)
			} else {
				slots = append(slots, s)
			}
		}
	}
	return append(slots, reserve...)
}

// cachedRings is how many rings an indexCache keeps: two are in use, and
// at a change of period or shared random value one more is added.
const cachedRings = 3

// indexKey determines the places of relays in a ring.
type indexKey struct {
	sharedRandom [32]byte
	period       descriptor.Period
}

// indexCache caches the places of relays in the latest rings, so that a new
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
