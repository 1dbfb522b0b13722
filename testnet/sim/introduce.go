package sim

import (
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// introCircuit is a client's circuit to an introduction point, in the course of
// one visit. tor looks up the point's authentication key when it launches the
// circuit, by the RSA identity of the relay, and does not when it extends the
// circuit to another point after a refusal: that point is given the first one's
// key, and refuses too (hs_client_setup_intro_circ_auth_key and
// hs_client_reextend_intro_circuit in tor).
type introCircuit struct {
	of       *descriptor.Descriptor // that the points are from; nil if there is no circuit
	key      [32]byte
	end      descriptor.Fingerprint // the relay it goes to
	extended bool
}

// badPoint is what a client remembers against an introduction point.
type badPoint struct {
	since       time.Time
	refused     bool
	unreachable int // circuits that failed
}

const (
	badFor         = 2 * time.Minute  // from the first failure on
	cleanEvery     = 30 * time.Second // what is over is found then
	maxUnreachable = 5                // circuits that fail before a point is bad
)

// attempt is one introduction: at which point, what came of it, and what it cost.
type attempt struct {
	point    *descriptor.IntroductionPoint // nil if it did not come to that
	extended bool                          // on the circuit of the attempt before
	meeting  meeting
	instance *Instance // that answered
	fetching time.Duration
	cost     time.Duration
	err      error // why no other attempt is made
}

// attempt asks one introduction point, over the visit's circuit if there is one,
// and fetches the descriptor first if the client has none with a point to use. If
// what is fetched has none either, the visit is over: no second HSDir is asked.
func (c *Client) attempt(now time.Time, circuit *introCircuit) attempt {
	var a attempt
	consensus := c.view.live(now.Add(c.cfg.ClockOffset))
	if consensus == nil {
		a.err = ErrNoConsensus
		return a
	}
	if c.cached != nil && !c.expires.After(consensus.ValidAfter) {
		c.cached = nil
	}
	usable := c.usable()
	if len(usable) == 0 {
		if a.fetching, a.err = c.fetch(consensus, now); a.err != nil {
			return a
		}
		if usable = c.usable(); len(usable) == 0 {
			clear(c.asked)
			a.err = fmt.Errorf("%w: %d in the descriptor", ErrNoPoint, len(c.cached.IntroductionPoints))
			return a
		}
	}
	a.point = usable[c.random.IntN(len(usable))]
	a.extended = circuit.of == c.cached
	c.introduce(&a, circuit, now)
	return a
}

// introduce brings the circuit to the attempt's point, and asks that.
func (c *Client) introduce(a *attempt, circuit *introCircuit, now time.Time) {
	relay := a.point.Relay()
	switch {
	case !a.extended:
		*circuit = introCircuit{of: c.cached, key: c.first(relay).AuthKey, end: relay}
		a.meeting, a.instance = c.net.meet(relay, circuit.key, c.address)
	case circuit.end == relay: // no relay extends a circuit to itself
		a.meeting = unreachable
	default:
		circuit.extended, circuit.end = true, relay
		a.meeting, a.instance = c.net.meet(relay, circuit.key, c.address)
	}
	switch a.meeting {
	case unreachable:
		a.cost = unreachableTime
		c.blame(circuit.key, now).unreachable++
	case refused:
		a.cost = refusalTime
		c.blame(circuit.key, now).refused = true
		if !circuit.extended && len(c.usable()) > 0 {
			return // the circuit goes on to another
		}
		a.cost += between(c.random, 0, retryTick)
	case silent:
		a.cost = silenceTime
	case answered:
		a.cost = introduceTime + connectTime
		clear(c.asked)
	}
	circuit.of = nil
}

// usable returns the points of the cached descriptor that are not known to be bad. It
// is good until the next call.
func (c *Client) usable() []*descriptor.IntroductionPoint {
	if c.cached == nil {
		return nil
	}
	points := c.net.scratch.points[:0]
	for i := range c.cached.IntroductionPoints {
		p := &c.cached.IntroductionPoints[i]
		if b := c.bad[p.AuthKey]; b == nil || !b.refused && b.unreachable < maxUnreachable {
			points = append(points, p)
		}
	}
	c.net.scratch.points = points
	return points
}

// first is the first point of the cached descriptor on a relay.
func (c *Client) first(relay descriptor.Fingerprint) *descriptor.IntroductionPoint {
	for i := range c.cached.IntroductionPoints {
		if p := &c.cached.IntroductionPoints[i]; p.Relay() == relay {
			return p
		}
	}
	panic("sim: a client goes to a relay that its descriptor does not name")
}

// blame is what the client holds against the point with that key.
func (c *Client) blame(key [32]byte, now time.Time) *badPoint {
	b := c.bad[key]
	if b == nil {
		if c.bad == nil {
			c.bad = make(map[[32]byte]*badPoint)
		}
		b = &badPoint{since: now}
		c.bad[key] = b
	}
	return b
}

// clean forgets what was too old to count when that was last looked for.
func (c *Client) clean(now time.Time) {
	if len(c.bad) == 0 {
		return
	}
	cleaned := now.Add(-(now.Sub(c.started) % cleanEvery))
	for key, b := range c.bad {
		if cleaned.Sub(b.since) > badFor {
			delete(c.bad, key)
		}
	}
}
