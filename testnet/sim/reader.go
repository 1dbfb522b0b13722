package sim

import (
	"time"

	"onionbalancer/descriptor"
)

// Reader reads what clients would be handed, with the consensus of one tor. Its methods
// may be called from any goroutine.
type Reader struct{ view *view }

// NewReader adds a reader. delay is as TorConfig.ConsensusDelay.
func (n *Network) NewReader(delay time.Duration) *Reader {
	n.lock()
	defer n.mu.Unlock()
	v := &view{net: n, random: n.cfg.source("reader", n.clients), delay: delay}
	n.clients++
	v.follow(time.Now())
	return &Reader{v}
}

// Read returns what each HSDir that a client would ask has of a service, nil where it
// has nothing of use or does not answer. Nobody may change it.
func (r *Reader) Read(a descriptor.Address) []*descriptor.Descriptor {
	n := r.view.net
	n.lock()
	defer n.mu.Unlock()
	now := time.Now()
	consensus := r.view.live(now)
	if consensus == nil {
		return nil
	}
	ring := consensus.current()
	keys, err := n.keyring.of(a, ring.key.period)
	if err != nil {
		return nil
	}
	var found []*descriptor.Descriptor
	for _, dir := range ring.fetch(&n.cfg, keys.Blinded) {
		var d *descriptor.Descriptor
		if dir.answers() {
			if body, status := dir.serve(keys.Blinded, now); status == statusOK {
				d, _ = n.read(body, keys, nil, now) // nil if it is not in order
			}
		}
		found = append(found, d)
	}
	return found
}
