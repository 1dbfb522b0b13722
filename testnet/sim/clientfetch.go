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
	var left []*Relay
	for _, r := range ring.fetch(&c.net.cfg, keys.Blinded) {
		if at, before := c.asked[question{r, keys.Blinded}]; !before || now.Sub(at) > c.net.cfg.Requery {
			left = append(left, r)
		}
	}
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
	d, err := c.net.decoder.Decode(body, keys, c.cfg.Key, now.Add(c.cfg.ClockOffset))
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
