package sim

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// How long tor keeps an introduction point, and its certificates.
const (
	minPointLife = 18 * time.Hour
	maxPointLife = 24 * time.Hour
)

// introPoint is a circuit of a service to a relay that introduces clients.
type introPoint struct {
	owner   *published
	relay   *Relay
	serial  uint64 // among the points of its descriptor
	expires time.Time
	closed  bool

	keyed   bool // its keys are made when somebody sees them
	authKey [32]byte
	encKey  [32]byte
}

// meeting is what becomes of a client at an introduction point.
type meeting int

const (
	unreachable meeting = iota // no circuit reaches the relay
	refused                    // the relay knows nothing of the service
	silent                     // the relay acknowledges, and nobody comes to the rendezvous
	answered                   // the service's tor does
)

// meet says what becomes of a client of the service with that address, that asks
// a relay for the introduction point with that key, and which instance answers.
func (n *Network) meet(relay descriptor.Fingerprint, key [32]byte, a descriptor.Address) (meeting, *Instance) {
	r := n.known[relay]
	if r == nil || !r.answers() {
		return unreachable, nil
	}
	p := n.points[key]
	if p == nil || p.relay != r || p.closed || !p.owner.instance.online {
		return refused, nil
	}
	i := p.owner.instance
	if !i.awake() || i.unlisted[a] {
		return silent, nil
	}
	return answered, i
}

// Owner is the instance that an introduction point in a descriptor leads to; nil for
// one of nobody's.
func (n *Network) Owner(p *descriptor.IntroductionPoint) *Instance {
	n.lock()
	defer n.mu.Unlock()
	if known := n.points[p.AuthKey]; known != nil {
		return known.owner.instance
	}
	return nil
}

// keys makes the point's keys and registers it, so that clients that found it
// in a descriptor find it in the network.
func (p *introPoint) keys() {
	if p.keyed {
		return
	}
	p.keyed = true
	n, i := p.relay.net, p.owner.instance
	seed := n.cfg.derive("introduction point", p.owner.public[:], int8Bytes(i.starts), int8Bytes(p.serial))
	p.authKey = [32]byte(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
	secret := n.cfg.derive("introduction point encryption", seed[:])
	key, err := ecdh.X25519().NewPrivateKey(secret[:])
	if err != nil {
		panic("sim: any 32 bytes are an x25519 key: " + err.Error())
	}
	p.encKey = [32]byte(key.PublicKey().Bytes())
	n.points[p.authKey] = p
}

// describe is the point as a descriptor made at made contains it.
func (p *introPoint) describe(made time.Time) descriptor.IntroductionPoint {
	p.keys()
	return descriptor.IntroductionPoint{
		LinkSpecifiers: p.relay.LinkSpecifiers(),
		OnionKey:       p.relay.onionKey,
		AuthKey:        p.authKey,
		EncKey:         p.encKey,
		// The certificates are made again at every upload.
		Expires: made.Truncate(time.Hour).Add(descriptor.CertLifetime),
	}
}

// refill opens introduction points on relays that the descriptor does not use
// yet, until it has as many as it should.
func (d *published) refill(now time.Time) {
	i := d.instance
	c := i.view.live(now)
	if c == nil {
		return
	}
	for len(d.points) < i.cfg.IntroductionPoints {
		relay := d.pick(c)
		if relay == nil {
			return
		}
		d.serial++
		d.points = append(d.points, &introPoint{owner: d, relay: relay, serial: d.serial,
			expires: now.Add(i.pointLife())})
	}
}

// pick chooses a relay for a new point: one of the consensus, not used yet,
// and in fact there, for a circuit to it is built before it counts.
func (d *published) pick(c *Consensus) *Relay {
	random := d.instance.random
	for range 50 {
		r := c.Relays[random.IntN(len(c.Relays))]
		if r.answers() && !d.uses(r) {
			return r
		}
	}
	var left []*Relay
	for _, r := range c.Relays {
		if r.answers() && !d.uses(r) {
			left = append(left, r)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return left[random.IntN(len(left))]
}

func (d *published) uses(r *Relay) bool {
	return slices.ContainsFunc(d.points, func(p *introPoint) bool { return p.relay == r })
}

// replaceLost replaces points whose relay has left or falls silent, or which
// have expired, and uploads if there were any.
func (d *published) replaceLost(now time.Time) {
	if d.ended || !d.instance.awake() {
		return
	}
	kept := make([]*introPoint, 0, len(d.points))
	for _, p := range d.points {
		if p.relay.answers() && p.expires.After(now) {
			kept = append(kept, p)
		} else {
			p.closed = true
		}
	}
	if len(kept) == len(d.points) {
		return
	}
	d.points = kept
	d.refill(now)
	d.publish(now, d.instance.cfg.Start)
	d.watchExpiry()
}

// watchExpiry plans the next replacement of an expired point.
func (d *published) watchExpiry() {
	if len(d.points) == 0 {
		return
	}
	next := d.points[0].expires
	for _, p := range d.points {
		if p.expires.Before(next) {
			next = p.expires
		}
	}
	d.watches++
	watch := d.watches
	d.instance.net.agenda.plan(next, func(now time.Time) {
		if watch == d.watches {
			d.replaceLost(now)
		}
	})
}

// close ends all circuits to the introduction points.
func (d *published) close() {
	for _, p := range d.points {
		p.closed = true
	}
	d.points = nil
}

// pointLife is how long a point that is chosen now will be used.
func (i *Instance) pointLife() time.Duration {
	if i.cfg.PointLife > 0 {
		return i.cfg.PointLife
	}
	return between(i.random, minPointLife, maxPointLife)
}
