package sim

import (
	"time"

	"onionbalancer/descriptor"
)

// start gives a service that has just started its two descriptors. One that
// has run for long, when the network is made, has its points' age spread.
func (i *Instance) start(now time.Time, settled bool) {
	i.online = true
	i.starts++
	c := i.view.live(now)
	if c == nil {
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
	if !i.online {
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
		i.second = i.build(c.Period().Next(), now, false)
		i.second.publish(now, i.cfg.Start)
		i.rotation = c.RunStart().Add(i.net.cfg.run())
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
// left: it notices when its circuits cannot be built anew.
func (i *Instance) lostRelay(r *Relay) {
	for _, d := range i.running() {
		if !d.uses(r) {
			continue
		}
		noticed := time.Now().Add(between(i.random, 30*time.Second, 4*time.Minute))
		i.net.agenda.plan(noticed, d.replaceLost)
	}
}
