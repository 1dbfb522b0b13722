package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"onionbalancer/descriptor"
)

// InstanceConfig describes an onion service. The zero value is a service of
// three introduction points that is online at once, with congestion control.
type InstanceConfig struct {
	// Name is what Client.Request says answered. "" means "instance", then a
	// number.
	Name string
	// Key is the service's identity. nil means one made from the seed.
	Key *descriptor.IdentityKey
	// IntroductionPoints is how many there are in each descriptor. 0 means 3.
	IntroductionPoints int
	// PointLife is how long a point is used. 0 means a random time between 18
	// and 24 hours, as tor does it.
	PointLife time.Duration
	// Offline services have never run; SetOnline starts them.
	Offline bool
	// NoFlowControl leaves the flow-control line out.
	NoFlowControl bool
	// SingleOnion services say so.
	SingleOnion bool
	// ProofOfWork services ask for it.
	ProofOfWork bool
	// LegacyPoint services have a first introduction point of the kind that
	// relays without Ed25519 keys needed, which nobody can publish again. Not
	// together with Clients.
	LegacyPoint bool
	// Clients are those that can read the descriptor. None means everybody.
	Clients []descriptor.AuthorizedClient
	// ClockOffset is how far the service's clock is ahead.
	ClockOffset time.Duration
	// ConsensusDelay is as in TorConfig.
	ConsensusDelay time.Duration
	// Start is how long the service takes from its start, and from a change of
	// its introduction points, to its upload. 0 means 10 s.
	Start time.Duration
}

const (
	defaultPoints = 3
	defaultStart  = 10 * time.Second
)

// Instance is an onion service with a tor of its own. It does what tor does:
// it keeps a first and a second descriptor with introduction points of their
// own, replaces points that are 18 to 24 hours old or whose relay has left,
// uploads every 60 to 120 minutes and whenever something changed, and makes
// its second descriptor its first, closing the first's points, when its
// consensus has a new shared random value.
type Instance struct {
	net    *Network
	cfg    InstanceConfig
	key    *descriptor.IdentityKey
	number uint64
	random *rand.Rand

	view          view
	online        bool
	garbage       bool
	alter         func(*descriptor.Contents)
	starts        uint64 // how often it started
	first, second *published
	rotation      time.Time // when second becomes first, by consensus time
	answered      int
	failing
}

// AddInstance adds an onion service to the network.
func (n *Network) AddInstance(cfg InstanceConfig) *Instance {
	n.lock()
	defer n.mu.Unlock()
	i := &Instance{net: n, cfg: cfg, key: cfg.Key, number: uint64(len(n.instances)), failing: failing{application: Web}}
	i.random = n.cfg.source("instance", i.number)
	if i.cfg.Name == "" {
		i.cfg.Name = fmt.Sprintf("instance%d", i.number)
	}
	if i.cfg.IntroductionPoints == 0 {
		i.cfg.IntroductionPoints = defaultPoints
	}
	if i.cfg.Start == 0 {
		i.cfg.Start = defaultStart
	}
	if i.key == nil {
		seed := n.cfg.derive("instance identity", binary.BigEndian.AppendUint64(nil, i.number))
		key, err := descriptor.IdentityKeyFromSeed(seed[:])
		if err != nil {
			panic("sim: a derived seed has 32 bytes: " + err.Error())
		}
		i.key = key
	}
	i.view = view{net: n, random: i.random, delay: cfg.ConsensusDelay, arrived: i.consensusArrived}
	n.instances = append(n.instances, i)
	n.services[i.key.Address()] = i
	if !cfg.Offline {
		now := time.Now()
		i.view.follow(now)
		i.start(now, true)
	}
	return i
}

// Name is the instance's name.
func (i *Instance) Name() string { return i.cfg.Name }

// Address is the instance's own onion address.
func (i *Instance) Address() descriptor.Address { return i.key.Address() }

// Key is the instance's identity key.
func (i *Instance) Key() *descriptor.IdentityKey { return i.key }

// Answered is how many requests of clients the instance has answered.
func (i *Instance) Answered() int {
	i.net.lock()
	defer i.net.mu.Unlock()
	return i.answered
}

// SetOnline starts the instance's tor or ends it. When it ends, its
// introduction points are dead at once and its descriptors stay where they
// are until they expire. When it starts, it takes new introduction points and
// uploads after InstanceConfig.Start. A tor that is frozen can be ended too.
func (i *Instance) SetOnline(online bool) {
	i.net.lock()
	defer i.net.mu.Unlock()
	if online == i.online {
		return
	}
	if !online {
		i.stop()
		return
	}
	now := time.Now()
	if i.view.consensus == nil {
		i.view.follow(now)
	}
	i.view.fetch(now)
	i.start(now, false)
}

// SetGarbage has the instance publish descriptors whose outer wrapper is in
// order, so that HSDirs take them, around bytes that decrypt to nothing. It
// uploads at once when that changes.
func (i *Instance) SetGarbage(garbage bool) {
	i.net.lock()
	defer i.net.mu.Unlock()
	i.garbage = garbage
	for _, d := range i.running() {
		d.publish(time.Now(), i.cfg.Start)
	}
}

// SetContents has the instance publish something else than it would, as one that
// was broken into can: alter changes the contents of each descriptor, and runs
// with the network locked. nil ends that. The instance uploads at once.
func (i *Instance) SetContents(alter func(*descriptor.Contents)) {
	i.net.lock()
	defer i.net.mu.Unlock()
	i.alter = alter
	for _, d := range i.running() {
		d.publish(time.Now(), i.cfg.Start)
	}
}

// ReplacePoints has the instance give up all its introduction points for new
// ones now, and upload them after InstanceConfig.Start.
func (i *Instance) ReplacePoints() {
	i.net.lock()
	defer i.net.mu.Unlock()
	now := time.Now()
	for _, d := range i.running() {
		d.close()
		d.refill(now)
		d.publish(now, i.cfg.Start)
	}
}

// Withdraw removes the instance's descriptors from all HSDirs, as if it had
// not been heard of for hours.
func (i *Instance) Withdraw() {
	i.net.lock()
	defer i.net.mu.Unlock()
	for _, d := range []*published{i.first, i.second} {
		if d == nil {
			continue
		}
		for _, r := range i.net.everyone {
			delete(r.store, d.public)
		}
	}
}

// running returns the descriptors of a service that is online and has a
// consensus.
func (i *Instance) running() []*published {
	if !i.online || i.first == nil {
		return nil
	}
	return []*published{i.first, i.second}
}

// clock is what the instance takes for the time.
func (i *Instance) clock(now time.Time) time.Time { return now.Add(i.cfg.ClockOffset) }

// stop ends the instance's tor.
func (i *Instance) stop() {
	i.online, i.frozen = false, false
	i.view.stopped = i.cut
	i.first.end()
	i.second.end()
	i.disconnect()
	i.release()
}

// start gives a service that has just started its two descriptors. One that
// has run for long, when the network is made, has its points' age spread.
func (i *Instance) start(now time.Time, settled bool) {
	i.online = true
	i.starts++
	c := i.view.live(now)
	if c == nil || i.cut {
		i.first, i.second = nil, nil
		return // consensusArrived starts it
	}
	delay := i.cfg.Start
	if settled {
		delay = 0
	}
	i.first = i.build(c.first().key.period, now, settled)
	i.second = i.build(c.second().key.period, now, settled)
	i.first.publish(now, delay)
	i.second.publish(now, delay)
	i.rotation = c.RunStart().Add(i.net.cfg.run())
}

// consensusArrived is what the service does with a new consensus: it rotates
// when the shared random value is new, replaces points whose relay has left,
// and uploads again if it became responsible to other HSDirs.
func (i *Instance) consensusArrived(now time.Time) {
	if !i.awake() {
		return
	}
	if i.first == nil {
		i.start(now, false)
		return
	}
	c := i.view.consensus
	if !c.ValidAfter.Before(i.rotation) {
		i.first.end()
		i.first = i.second
		i.second = i.build(c.second().key.period, now, false)
		i.second.publish(now, i.cfg.Start)
		i.rotation = c.RunStart().Add(i.net.cfg.run())
	}
	if i.first.period != c.first().key.period { // it slept for more than a day
		i.first.end()
		i.second.end()
		i.start(now, false)
		return
	}
	for _, d := range []*published{i.first, i.second} {
		d.replaceLost(now)
		if d.movedFrom(i.responsible(d, c)) {
			d.publish(now, 0)
		}
	}
}

// responsible is where the service sends d, by consensus c.
func (i *Instance) responsible(d *published, c *Consensus) []*Relay {
	r := c.first()
	if d == i.second {
		r = c.second()
	}
	r = c.ring(d.period, &r.key.random)
	return r.store(&i.net.cfg, d.public)
}

// build makes a descriptor for a period, with introduction points of its own.
func (i *Instance) build(period descriptor.Period, now time.Time, settled bool) *published {
	blinded, err := i.key.Blind(period)
	if err != nil {
		panic("sim: blinding an instance's key: " + err.Error())
	}
	d := &published{instance: i, period: period, blinded: blinded, public: blinded.Public(), made: i.clock(now)}
	d.refill(now)
	if settled {
		for _, p := range d.points {
			age := between(i.random, 0, minPointLife)
			p.expires = p.expires.Add(-age)
		}
	}
	d.watchExpiry()
	return d
}

// lostRelay plans that the service replaces what points it has on a relay that
// left: it notices when its circuits cannot be built again.
func (i *Instance) lostRelay(r *Relay) {
	for _, d := range i.running() {
		if !d.uses(r) {
			continue
		}
		noticed := time.Now().Add(between(i.random, 30*time.Second, 4*time.Minute))
		i.net.agenda.plan(noticed, d.replaceLost)
	}
}
