package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"onionbalancer/descriptor"
)

// ClientConfig describes a client of an onion service.
type ClientConfig struct {
	// Key is the client's key, for a service that authorizes clients.
	Key *descriptor.ClientKey
	// ClockOffset is how far the client's clock is ahead.
	ClockOffset time.Duration
	// ConsensusDelay is as in TorConfig.
	ConsensusDelay time.Duration
}

// Client is a tor that uses one onion service, with a consensus of its own. As
// tor does, it keeps a descriptor until its consensus reaches the next time
// period, and an introduction point that failed it goes unused for two
// minutes. Its methods may be called from any goroutine.
type Client struct {
	net     *Network
	cfg     ClientConfig
	address descriptor.Address
	random  *rand.Rand
	view    view

	cached  *descriptor.Descriptor
	expires time.Time // by consensus time
	failed  map[[32]byte]time.Time
	asked   map[*Relay]bool // in the course of the present request
	fetches int
}

const (
	failureMemory = 2 * time.Minute // of an introduction point that failed
	// A dead point costs a client several seconds: tor extends the refused
	// circuit to other points, but asks them for the refused one, until the
	// circuit may not grow any more. The stream times out after two minutes.
	maxTries = 16
)

// Result is what became of a request.
type Result struct {
	// Instance answered; nil if none did.
	Instance *Instance
	// Tries is how many introduction points were tried, the last one, which
	// worked, included.
	Tries int
	// Fetched is how many descriptors were fetched for the request.
	Fetched int
	// Err says why the request is lost; nil if it is not.
	Err error
}

// What Result.Err wraps.
var (
	ErrNoConsensus  = errors.New("the client has no live consensus")
	ErrNoDescriptor = errors.New("no HSDir has a usable descriptor")
	ErrNoPoint      = errors.New("no introduction point answers")
)

// NewClient adds a client of the service with the given address.
func (n *Network) NewClient(address descriptor.Address, cfg ClientConfig) *Client {
	n.lock()
	defer n.mu.Unlock()
	c := &Client{net: n, cfg: cfg, address: address, random: n.cfg.source("client", n.clients),
		failed: make(map[[32]byte]time.Time), asked: make(map[*Relay]bool)}
	n.clients++
	c.view = view{net: n, random: c.random, delay: cfg.ConsensusDelay}
	c.view.follow(time.Now())
	return c
}

// Fetches is how many descriptors the client has fetched since it was made.
func (c *Client) Fetches() int {
	c.net.lock()
	defer c.net.mu.Unlock()
	return c.fetches
}

// Forget has the client forget all that it knows of the service, as a new
// identity does: the next request fetches the descriptor.
func (c *Client) Forget() {
	c.net.lock()
	defer c.net.mu.Unlock()
	c.cached = nil
	clear(c.failed)
}

// Request makes one connection to the service. It takes no time: what it
// meets is the network as it is at this moment.
func (c *Client) Request() Result {
	c.net.lock()
	defer c.net.mu.Unlock()
	now := time.Now()
	before := c.fetches
	clear(c.asked) // tor asks an HSDir twice for one request at most
	result := c.request(now)
	result.Fetched = c.fetches - before
	if result.Err == nil {
		result.Instance.answered++
	}
	for key, at := range c.failed {
		if now.Sub(at) > failureMemory {
			delete(c.failed, key)
		}
	}
	return result
}

func (c *Client) request(now time.Time) Result {
	var result Result
	for result.Tries < maxTries {
		consensus := c.view.live(now.Add(c.cfg.ClockOffset))
		if consensus == nil {
			result.Err = ErrNoConsensus
			return result
		}
		if c.cached != nil && !c.expires.After(consensus.ValidAfter) {
			c.cached = nil
		}
		usable := c.usable(now)
		if len(usable) == 0 {
			if err := c.fetch(consensus, now); err != nil {
				result.Err = err
				return result
			}
			if usable = c.usable(now); len(usable) == 0 {
				result.Err = fmt.Errorf("%w: %d in the descriptor", ErrNoPoint, len(c.cached.IntroductionPoints))
				return result
			}
		}
		point := c.shadowed(usable[c.random.IntN(len(usable))])
		result.Tries++
		if p := c.net.points[point.AuthKey]; p != nil && p.alive() && p.relay.Fingerprint() == point.Relay().String() {
			result.Instance = p.owner.instance
			return result
		}
		c.failed[point.AuthKey] = now
	}
	result.Err = fmt.Errorf("%w: %d tries", ErrNoPoint, result.Tries)
	return result
}

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
