package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// fetch asks HSDirs until one has a descriptor that decodes, and puts that into
// the cache. It returns how long that takes. Each time one is drawn of all that
// both replicas have, other than those it asked within Config.Requery
// (hs_pick_hsdir in tor). When none is left the request has failed, and what was
// asked is forgotten.
func (c *Client) fetch(consensus *Consensus, now time.Time) (took time.Duration, err error) {
	ring := consensus.current()
	keys, err := c.net.keyring.of(c.address, ring.key.period)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoDescriptor, err)
	}
	for {
		r := c.pick(ring, keys, now)
		if r == nil {
			clear(c.asked)
			return took, ErrNoDescriptor
		}
		if !r.answers() || r.circuit("client", now) != arrives {
			took += stallTime
			continue
		}
		took += min(fetchTime+r.faults.Delay, stallTime)
		if body, status := r.serve(keys.Blinded, now); status == statusOK && c.take(body, keys, now) {
			return took, nil
		}
	}
}

// pick draws the HSDir to ask next; nil if all were asked.
func (c *Client) pick(ring *ring, keys descriptor.PeriodKeys, now time.Time) *Relay {
	left := c.net.scratch.relays[:0]
	for _, r := range ring.fetch(&c.net.cfg, keys.Blinded) {
		if at, before := c.asked[question{r, keys.Blinded}]; !before || now.Sub(at) > c.net.cfg.Requery {
			left = append(left, r)
		}
	}
	c.net.scratch.relays = left
	if len(left) == 0 {
		return nil
	}
	r := left[c.random.IntN(len(left))]
	if c.asked == nil {
		c.asked = make(map[question]time.Time)
	}
	c.asked[question{r, keys.Blinded}] = now
	return r
}

// take puts a descriptor into the client's cache, which has one for an address. Of
// the same period one with a lower revision counter is dropped, and nobody is told
// (cache_store_as_client in tor). It says whether the descriptor is in order.
func (c *Client) take(body []byte, keys descriptor.PeriodKeys, now time.Time) bool {
	d, err := c.net.read(body, keys, c.cfg.Key, now.Add(c.cfg.ClockOffset))
	if err != nil {
		return false
	}
	c.fetches++
	expires := keys.Period.End(c.net.cfg.periodOffset())
	if c.cached == nil || c.expires != expires || c.cached.RevisionCounter <= d.RevisionCounter {
		c.cached, c.expires = d, expires
	}
	return true
}

// reading is what a body was decoded with, and by whom: all that read the same one
// share what they read.
type reading struct {
	first *byte
	key   *descriptor.ClientKey
}

// readers bounds how many readings are remembered.
const readers = 1000

// shared is what was read, which nobody may change.
type shared struct {
	body       []byte // kept, for its address not to become that of another
	descriptor *descriptor.Descriptor
	until      time.Time // the first of what is in it ends then
}

// read decodes a descriptor once for all clients that are handed the same bytes.
func (n *Network) read(body []byte, keys descriptor.PeriodKeys, key *descriptor.ClientKey, now time.Time) (*descriptor.Descriptor, error) {
	if len(body) == 0 {
		return n.decoder.Decode(body, keys, key, now)
	}
	name := reading{&body[0], key}
	if known, ok := n.readings[name]; ok && len(known.body) == len(body) && !now.After(known.until) {
		return known.descriptor, nil
	}
	d, err := n.decoder.Decode(body, keys, key, now)
	if err != nil || len(d.Dropped) > 0 {
		return d, err
	}
	until := d.SigningCert.Expires()
	for i := range d.IntroductionPoints {
		if ends := d.IntroductionPoints[i].Expires; ends.Before(until) {
			until = ends
		}
	}
	if n.readings == nil || len(n.readings) >= readers {
		n.readings = make(map[reading]shared)
	}
	n.readings[name] = shared{body, d, until}
	return d, nil
}

// fate is what becomes of a request to an HSDir.
type fate int

const (
	arrives  fate = iota // and so does the answer
	unheard              // the circuit dies before the HSDir has it
	unspoken             // the circuit dies before the answer is back
)

// circuit decides the fate of a request that sets out at now. Of those that
// Config.Loss has die, half do their work before.
func (r *Relay) circuit(purpose string, now time.Time) fate {
	loss := r.net.cfg.Loss
	if loss <= 0 {
		return arrives
	}
	draw := r.net.cfg.derive("circuit", []byte(purpose), r.fingerprint[:], timeBytes(now))
	switch share := float64(binary.BigEndian.Uint32(draw[:])) / (1 << 32); {
	case share < loss/2:
		return unheard
	case share < loss:
		return unspoken
	}
	return arrives
}
