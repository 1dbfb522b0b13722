package sim

import (
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// usable returns the points of the cached descriptor that have not failed the
// client lately.
func (c *Client) usable(now time.Time) []*descriptor.IntroductionPoint {
	if c.cached == nil {
		return nil
	}
	var points []*descriptor.IntroductionPoint
	for i := range c.cached.IntroductionPoints {
		p := &c.cached.IntroductionPoints[i]
		if at, failed := c.failed[p.AuthKey]; !failed || now.Sub(at) > failureMemory {
			points = append(points, p)
		}
	}
	return points
}

// shadowed is the point that the client uses when it has chosen p: it finds
// it by p's relay, and takes the first of the descriptor on that relay.
func (c *Client) shadowed(p *descriptor.IntroductionPoint) *descriptor.IntroductionPoint {
	for i := range c.cached.IntroductionPoints {
		if q := &c.cached.IntroductionPoints[i]; q.Relay() == p.Relay() {
			return q
		}
	}
	return p
}

// fetch asks HSDirs in random order, until one has a descriptor that decodes.
func (c *Client) fetch(consensus *Consensus, now time.Time) error {
	ring := consensus.current()
	keys, err := c.net.keyring.of(c.address, ring.key.period)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDescriptor, err)
	}
	hsdirs := ring.fetch(&c.net.cfg, keys.Blinded)
	c.random.Shuffle(len(hsdirs), func(i, j int) { hsdirs[i], hsdirs[j] = hsdirs[j], hsdirs[i] })
	for _, r := range hsdirs {
		if c.asked[r] || !r.answers() {
			continue
		}
		c.asked[r] = true
		if r.circuit("client", now) != arrives {
			continue
		}
		body, status := r.serve(keys.Blinded, now)
		if status != statusOK {
			continue
		}
		d, err := c.net.decoder.Decode(body, keys, c.cfg.Key, now.Add(c.cfg.ClockOffset))
		if err != nil {
			continue
		}
		c.fetches++
		if c.cached == nil || c.cached.RevisionCounter <= d.RevisionCounter {
			c.cached = d
		}
		c.expires = ring.key.period.End(c.net.cfg.periodOffset())
		return nil
	}
	return ErrNoDescriptor
}
