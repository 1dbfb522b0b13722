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
	// Patience is how long the visitor waits for an answer once its tor has a
	// descriptor: what HSDirs cost that do not answer is not the service's. 0
	// means as long as tor does, which is two minutes for everything.
	Patience time.Duration
}

// Client is a tor that uses one onion service, with a consensus of its own. As
// tor does, it keeps a descriptor until its consensus reaches the next time
// period, and an introduction point that refused it goes unused for two
// minutes; one that acknowledges and leads nowhere is chosen again as if nothing
// had been. Its methods may be called from any goroutine.
type Client struct {
	net     *Network
	cfg     ClientConfig
	address descriptor.Address
	random  *rand.Rand
	view    *view

	cached  *descriptor.Descriptor
	expires time.Time // by consensus time
	failed  map[[32]byte]time.Time
	asked   map[*Relay]bool // in the course of the present request
	fetches int
}

// How long things take a tor whose round trip to its guard is 200 ms, as measured.
const (
	introduceTime = 900 * time.Millisecond  // up to the service's answer at the rendezvous
	connectTime   = 400 * time.Millisecond  // from there to the application's
	refusalTime   = 1100 * time.Millisecond // an introduction point that knows nothing of the service
	silenceTime   = 10 * time.Second        // one that acknowledges, and nobody comes to the rendezvous
	fetchTime     = 600 * time.Millisecond
	stallTime     = 32 * time.Second // an HSDir that does not answer, until tor asks the next one
	socksTimeout  = 2 * time.Minute  // and tor gives the request up
)

const failureMemory = 2 * time.Minute // of an introduction point that failed

// Result is what became of a request.
type Result struct {
	// Instance answered; nil if none did.
	Instance *Instance
	// Tries is how many introduction points were tried, the last one, which
	// worked, included.
	Tries int
	// Silent is how many of them acknowledged, and nobody answered.
	Silent int
	// Fetched is how many descriptors were fetched for the request.
	Fetched int
	// Took is how long the visitor waits, Directory what part of it for HSDirs.
	Took, Directory time.Duration
	// Err says why the request is lost; nil if it is not.
	Err error
}

// What Result.Err wraps.
var (
	ErrNoConsensus  = errors.New("the client has no live consensus")
	ErrNoDescriptor = errors.New("no HSDir has a usable descriptor")
	ErrNoPoint      = errors.New("no introduction point answers")
	ErrPatience     = errors.New("the visitor has waited too long")
	ErrApplication  = errors.New("the instance's tor answers, its application does not")
)

// NewClient adds a client of the service with the given address.
func (n *Network) NewClient(address descriptor.Address, cfg ClientConfig) *Client {
	n.lock()
	defer n.mu.Unlock()
	c := &Client{net: n, cfg: cfg, address: address, random: n.cfg.source("client", n.clients),
		failed: make(map[[32]byte]time.Time), asked: make(map[*Relay]bool)}
	n.clients++
	c.view = &view{net: n, random: c.random, delay: cfg.ConsensusDelay}
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

// Request makes one connection to the service, over circuits of its own. It
// takes no time: what it meets is the network as it is at this moment, and
// Result.Took is how long it would have taken.
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
	c.forgive(now)
	return result
}

// forgive forgets the failures that are too old to count.
func (c *Client) forgive(now time.Time) {
	for key, at := range c.failed {
		if now.Sub(at) > failureMemory {
			delete(c.failed, key)
		}
	}
}

func (c *Client) request(now time.Time) Result {
	var result Result
	patience := c.cfg.Patience
	if patience == 0 {
		patience = socksTimeout
	}
	for {
		a := c.attempt(now)
		result.Directory += a.fetching
		result.Took += a.fetching + a.cost
		if a.point != nil {
			result.Tries++
		}
		switch {
		case result.Took > socksTimeout || result.Took-result.Directory > patience:
			result.Err = fmt.Errorf("%w: %s, %d introduction points tried", ErrPatience, result.Took, result.Tries)
			return result
		case a.err != nil:
			result.Err = a.err
			return result
		case a.meeting == answered && a.instance.application == nil:
			result.Err = ErrApplication
			return result
		case a.meeting == answered:
			result.Instance = a.instance
			return result
		case a.meeting == silent:
			result.Silent++
		}
	}
}

// attempt is one introduction: at which point, what came of it, and what it cost.
type attempt struct {
	point    *descriptor.IntroductionPoint // nil if it did not come to that
	meeting  meeting
	instance *Instance // that answered
	fetching time.Duration
	cost     time.Duration
	err      error // why no other attempt is made
}

// attempt asks one introduction point, and fetches the descriptor first if the
// client has none of use.
func (c *Client) attempt(now time.Time) attempt {
	var a attempt
	consensus := c.view.live(now.Add(c.cfg.ClockOffset))
	if consensus == nil {
		a.err = ErrNoConsensus
		return a
	}
	if c.cached != nil && !c.expires.After(consensus.ValidAfter) {
		c.cached = nil
	}
	usable := c.usable(now)
	if len(usable) == 0 {
		if a.fetching, a.err = c.fetch(consensus, now); a.err != nil {
			return a
		}
		if usable = c.usable(now); len(usable) == 0 {
			a.err = fmt.Errorf("%w: %d in the descriptor", ErrNoPoint, len(c.cached.IntroductionPoints))
			return a
		}
	}
	a.point = c.shadowed(usable[c.random.IntN(len(usable))])
	p := c.net.points[a.point.AuthKey]
	if p != nil && p.relay.Fingerprint() == a.point.Relay().String() {
		a.meeting = p.meet(c.address)
	}
	switch a.meeting {
	case refused:
		a.cost = refusalTime
		c.failed[a.point.AuthKey] = now
	case silent:
		a.cost = silenceTime
	case answered:
		a.cost = introduceTime + connectTime
		a.instance = p.owner.instance
	}
	return a
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

// fetch asks HSDirs in random order, until one has a descriptor that decodes. It
// returns how long that takes.
func (c *Client) fetch(consensus *Consensus, now time.Time) (took time.Duration, err error) {
	ring := consensus.current()
	keys, err := c.net.keyring.of(c.address, ring.key.period)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoDescriptor, err)
	}
	hsdirs := ring.fetch(&c.net.cfg, keys.Blinded)
	c.random.Shuffle(len(hsdirs), func(i, j int) { hsdirs[i], hsdirs[j] = hsdirs[j], hsdirs[i] })
	for _, r := range hsdirs {
		if c.asked[r] {
			continue
		}
		c.asked[r] = true
		if !r.answers() || r.circuit("client", now) != arrives {
			took += stallTime
			continue
		}
		took += min(fetchTime+r.faults.Delay, stallTime)
		if body, status := r.serve(keys.Blinded, now); status == statusOK && c.take(body, keys, now) {
			return took, nil
		}
	}
	return took, ErrNoDescriptor
}

// take puts a descriptor into the client's cache, unless that has a newer one. It
// says whether the descriptor is in order.
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
