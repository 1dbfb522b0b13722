package sim

import (
	"bytes"
	"crypto/sha3"
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"onionbalancer/descriptor"
)

// Faults is what is wrong with a relay. The zero value is a relay that works.
// All of it concerns the relay as an HSDir; Silent makes introduction points
// on it unreachable too.
type Faults struct {
	// Silent: it never answers anybody.
	Silent bool
	// Delay: it answers this much later.
	Delay time.Duration
	// RejectUploads: it answers every upload with status 400.
	RejectUploads bool
	// Overloaded: it answers everything with status 503.
	Overloaded bool
	// RejectFetches: it answers every fetch with status 400.
	RejectFetches bool
	// Replay: it accepts uploads, and goes on handing out what it had before.
	Replay bool
	// Amnesia: it accepts uploads, and has nothing when asked.
	Amnesia bool
	// Forge, if not nil, makes what it hands out from what it should: from an
	// empty body if it has nothing. It runs with the network locked.
	Forge func(honest []byte) []byte
}

// SetFaults replaces what is wrong with the relay.
func (r *Relay) SetFaults(f Faults) {
	r.net.lock()
	defer r.net.mu.Unlock()
	r.faults = f
}

// Faults is what is wrong with the relay.
func (r *Relay) Faults() Faults {
	r.net.lock()
	defer r.net.mu.Unlock()
	return r.faults
}

// Wipe has the relay lose every descriptor that it stored, as when it restarts.
func (r *Relay) Wipe() {
	r.net.lock()
	defer r.net.mu.Unlock()
	clear(r.store)
}

// Stored returns the descriptor that the relay holds for a blinded key now,
// and its revision counter; nil if it holds none.
func (r *Relay) Stored(blinded descriptor.BlindedPublicKey) (body []byte, revision uint64) {
	r.net.lock()
	defer r.net.mu.Unlock()
	s := r.lookup(blinded, time.Now())
	if s == nil {
		return nil, 0
	}
	return s.content(r), s.counter()
}

// The statuses of HTTP with which an HSDir answers.
const (
	statusOK          = 200
	statusBad         = 400
	statusMissing     = 404
	statusUnavailable = 503
)

// stored is a descriptor on an HSDir: one that was posted, as bytes, or one
// of an instance, which is only made when somebody wants to see it.
type stored struct {
	received time.Time
	lifetime time.Duration
	body     []byte
	revision uint64
	upload   *upload
}

func (s *stored) counter() uint64 {
	if s.upload != nil {
		return s.upload.counter()
	}
	return s.revision
}

// content is the descriptor's bytes; an instance encrypts again for every HSDir.
func (s *stored) content(r *Relay) []byte {
	if s.body == nil && s.upload != nil {
		s.body = s.upload.encode(r)
	}
	return s.body
}

// replaces says whether an HSDir that has old takes s: its revision counter
// must be higher. Of one instance's uploads the later one has the higher.
func (s *stored) replaces(old *stored) bool {
	if s.upload != nil && old.upload != nil && s.upload.sameSeries(old.upload) {
		return s.upload.at.Unix() > old.upload.at.Unix()
	}
	return s.counter() > old.counter()
}

func (r *Relay) lookup(blinded descriptor.BlindedPublicKey, now time.Time) *stored {
	s := r.store[blinded]
	if s == nil || now.After(s.received.Add(s.lifetime)) {
		delete(r.store, blinded)
		return nil
	}
	return s
}

// answers says whether the relay answers at all.
func (r *Relay) answers() bool { return !r.gone && !r.faults.Silent }

// receive takes an upload's bytes and returns the HTTP status.
func (r *Relay) receive(body []byte, now time.Time) int {
	w, err := readWrapper(body, now, int(r.net.cfg.param("HSV3MaxDescriptorSize", defaultMaxSize)))
	if err != nil && !r.faults.Overloaded {
		return statusBad
	}
	return r.take(body, w, now)
}

// take is receive for a body that was read before.
func (r *Relay) take(body []byte, w wrapper, now time.Time) int {
	if now.After(w.expires) && !r.faults.Overloaded {
		return statusBad
	}
	return r.keep(w.blinded, &stored{received: now, lifetime: w.lifetime, body: body, revision: w.revision})
}

// keep stores what is well formed, if the relay is willing.
func (r *Relay) keep(blinded descriptor.BlindedPublicKey, s *stored) int {
	switch f := r.faults; {
	case f.Overloaded:
		return statusUnavailable
	case f.RejectUploads:
		return statusBad
	case f.Amnesia:
		return statusOK
	}
	old := r.lookup(blinded, s.received)
	if old != nil && !s.replaces(old) {
		return statusBad
	}
	if r.faults.Replay && old != nil {
		old.received = s.received // it would expire otherwise
		return statusOK
	}
	r.store[blinded] = s
	r.net.tellReceived(r, blinded, s)
	return statusOK
}

// serve returns what the relay hands out for a blinded key, and the status.
func (r *Relay) serve(blinded descriptor.BlindedPublicKey, now time.Time) ([]byte, int) {
	switch f := r.faults; {
	case f.Overloaded:
		return nil, statusUnavailable
	case f.RejectFetches:
		return nil, statusBad
	}
	var honest []byte
	if s := r.lookup(blinded, now); s != nil && !r.faults.Amnesia {
		honest = s.content(r)
	}
	if r.faults.Forge != nil {
		if forged := r.faults.Forge(honest); forged != nil {
			return forged, statusOK
		}
	}
	if honest == nil {
		return nil, statusMissing
	}
	return honest, statusOK
}

// madeHere says whether body, which the relay hands out, is what an instance of
// the network made, unaltered: nobody need decode it to know that it is in order.
func (r *Relay) madeHere(blinded descriptor.BlindedPublicKey, body []byte, now time.Time) bool {
	s := r.store[blinded]
	if s == nil || s.upload == nil || len(s.body) == 0 || len(body) == 0 || &body[0] != &s.body[0] {
		return false
	}
	u := s.upload
	return !u.garbage && u.alter == nil && !now.After(u.of.cert.Expires())
}

// answerTime is when the relay's answer to something asked at now arrives.
func (r *Relay) answerTime(now time.Time) time.Time {
	limit := r.net.cfg.Latency
	draw := r.net.cfg.derive("latency", r.fingerprint[:], timeBytes(now))
	share := time.Duration(draw[0]) * limit / 2 / 256
	return now.Add(limit/2 + share + r.faults.Delay)
}

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
	fetched map[descriptor.BlindedPublicKey][]*Relay // where clients fetch
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
	r := &ring{key: key, fetched: make(map[descriptor.BlindedPublicKey][]*Relay)}
	for _, relay := range c.Relays {
		if c.hsdirs[relay] {
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
	known, ok := r.fetched[blinded]
	if !ok {
		known = r.responsible(blinded, int(cfg.param("hsdir_n_replicas", 2)), int(cfg.param("hsdir_spread_fetch", 3)))
		r.fetched[blinded] = known
	}
	return known
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
