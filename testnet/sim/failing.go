package sim

import (
	"time"

	"onionbalancer/descriptor"
)

// failing is what is wrong with an instance beside its tor being off. Network.mu
// protects it.
type failing struct {
	frozen      bool
	cut         bool
	cuts        uint64 // outdates the moment when relays notice
	lost        bool   // they have noticed
	links       uint64 // outdates connections of before
	unlisted    map[descriptor.Address]bool
	application Application
	gate        chan struct{} // closed when the instance moves again; nil while it does
}

// cutNoticed is when a relay's TCP gives up on a host that is not there.
const cutNoticed = 15 * time.Minute

// awake says whether the instance's tor does anything that others see.
func (i *Instance) awake() bool { return i.online && !i.frozen && !i.cut }

// SetFrozen stops the instance's tor in mid-air, as SIGSTOP does, or lets it go on.
// A frozen one does nothing, and nobody is told: its introduction points go on
// acknowledging. One that thaws has the points it had, and makes up for what it
// missed. A tor that is off cannot be frozen.
func (i *Instance) SetFrozen(frozen bool) {
	i.net.lock()
	defer i.net.mu.Unlock()
	if i.online && i.frozen != frozen {
		i.frozen = frozen
		i.moved(time.Now())
	}
}

// SetCut takes the instance off the network, or puts it back. At first that is as
// if it were frozen. After a quarter of an hour the relays know, and refuse its
// clients; it takes new introduction points when it is back then.
func (i *Instance) SetCut(cut bool) {
	i.net.lock()
	defer i.net.mu.Unlock()
	if i.cut == cut {
		return
	}
	now := time.Now()
	i.cut = cut
	i.cuts++
	if cuts := i.cuts; cut {
		i.net.agenda.plan(now.Add(cutNoticed), func(time.Time) {
			if cuts == i.cuts {
				i.lost = true
				for _, d := range i.running() {
					d.close()
				}
				i.disconnect()
			}
		})
	}
	i.moved(now)
}

// SetListed says whether the instance's ob_config has the line of a service's
// address, as it has at first, whatever the address. Without it, introductions of
// that service's clients are acknowledged and never answered. It takes effect at
// once, as if tor had been started again with its introduction points kept.
func (i *Instance) SetListed(service descriptor.Address, listed bool) {
	i.net.lock()
	defer i.net.mu.Unlock()
	if i.unlisted == nil {
		i.unlisted = make(map[descriptor.Address]bool)
	}
	i.unlisted[service] = !listed
}

// SetApplication replaces what the instance's tor connects clients to, which is
// Web at first. nil is an application that is down.
func (i *Instance) SetApplication(a Application) {
	i.net.lock()
	defer i.net.mu.Unlock()
	i.application = a
}

// moved follows a change of frozen or cut.
func (i *Instance) moved(now time.Time) {
	i.view.stopped = i.frozen || i.cut
	if i.view.stopped {
		if i.online && i.gate == nil {
			i.gate = make(chan struct{})
		}
		return
	}
	i.release()
	switch {
	case !i.online:
	case i.first == nil:
		i.start(now, false)
	case i.lost:
		for _, d := range i.running() {
			d.refill(now)
			d.publish(now, i.cfg.Start)
			d.watchExpiry()
		}
	default:
		for _, d := range i.running() {
			if d.overdue {
				d.publish(now, i.cfg.Start)
			}
			d.replaceLost(now)
		}
	}
	i.lost = false
}

// release lets go on what waits for the instance to move.
func (i *Instance) release() {
	if i.gate != nil {
		close(i.gate)
		i.gate = nil
	}
}

// disconnect ends every circuit and stream to the instance.
func (i *Instance) disconnect() {
	i.links++
	i.net.dialer.drop(func(s *stream) bool { return s.instance == i })
}
