package sim

import (
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

// Client is a tor that uses one onion service, with a consensus of its own. It
// does what tor 0.4.9 does as a client: clientfetch.go has how it comes by
// descriptors, introduce.go how it uses their introduction points. Its methods
// may be called from any goroutine.
type Client struct {
	net     *Network
	cfg     ClientConfig
	address descriptor.Address
	random  *rand.Rand
	view    *view

	cached  *descriptor.Descriptor
	expires time.Time              // by consensus time
	bad     map[[32]byte]*badPoint // by authentication key
	started time.Time              // from when bad is cleaned every half minute
	asked   map[question]time.Time
	fetches int
}

// How long things take a tor whose round trip to its guard is 200 ms, as measured.
const (
	introduceTime   = 900 * time.Millisecond // up to the service's answer at the rendezvous
	connectTime     = 400 * time.Millisecond // from there to the application's
	refusalTime     = 400 * time.Millisecond // an introduction point that knows nothing of the service
	unreachableTime = 600 * time.Millisecond // one whose relay cannot be extended to
	retryTick       = time.Second            // how often tor looks for requests that lost their circuit
	silenceTime     = 10 * time.Second       // one that acknowledges, and nobody comes to the rendezvous
	fetchTime       = 600 * time.Millisecond
	stallTime       = 32 * time.Second // an HSDir that does not answer, until tor asks the next one
	socksTimeout    = 2 * time.Minute  // and tor gives the request up
)

// Result is what became of a request.
type Result struct {
	// Instance answered; nil if none did.
	Instance *Instance
	// Tries is how many introduction points were tried, the last one, which
	// worked, included: circuits that were built for one of them.
	Tries int
	// Refused is how many introductions were refused; more than there were
	// tries at dead points, as every other circuit goes on to a second point in vain.
	Refused int
	// Silent is how many introductions were acknowledged, and nobody answered.
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
	c := &Client{net: n, cfg: cfg, address: address, random: n.cfg.source("client", n.clients), started: time.Now()}
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
	c.forget()
}

func (c *Client) forget() {
	c.cached = nil
	clear(c.bad)
	clear(c.asked)
}

// Request makes one connection to the service, over circuits of its own. It
// takes no time: what it meets is the network as it is at this moment, and
// Result.Took is how long it would have taken.
func (c *Client) Request() Result {
	c.net.lock()
	defer c.net.mu.Unlock()
	return c.visit(time.Now())
}

func (c *Client) visit(now time.Time) Result {
	c.clean(now)
	before := c.fetches
	result := c.request(now)
	result.Fetched = c.fetches - before
	if result.Instance != nil {
		result.Instance.answered++
	}
	return result
}

func (c *Client) request(now time.Time) (result Result) {
	patience := c.cfg.Patience
	if patience == 0 {
		patience = socksTimeout
	}
	var circuit introCircuit
	for {
		a := c.attempt(now, &circuit)
		result.note(a)
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
		}
	}
}

// note counts an attempt.
func (r *Result) note(a attempt) {
	r.Directory += a.fetching
	r.Took += a.fetching + a.cost
	switch {
	case a.point == nil:
		return
	case !a.extended:
		r.Tries++
	}
	switch a.meeting {
	case refused:
		r.Refused++
	case silent:
		r.Silent++
	}
}
