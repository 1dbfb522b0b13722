package sim

import (
	"time"

	"onionbalancer/descriptor"
)

// Received is an upload that an HSDir took, the balancer's or an instance's.
type Received struct {
	At      time.Time
	By      *Relay
	Blinded descriptor.BlindedPublicKey // the service and period
	Body    func() []byte               // the descriptor; to be called within OnUpload's f only
}

// OnUpload has f called for every upload that an HSDir takes from now on. It runs with
// the network locked.
func (n *Network) OnUpload(f func(Received)) {
	n.lock()
	defer n.mu.Unlock()
	n.received = f
}

func (n *Network) tellReceived(by *Relay, blinded descriptor.BlindedPublicKey, s *stored) {
	if n.received != nil {
		n.received(Received{At: s.received, By: by, Blinded: blinded, Body: func() []byte { return s.content(by) }})
	}
}

// Posted is an upload of a controller that arrived at an HSDir.
type Posted struct {
	At      time.Time
	Through *Tor // that the controller uses
	To      *Relay
	Address descriptor.Address
	Blinded descriptor.BlindedPublicKey // the service and period
	Counter uint64
	Stored  bool // the HSDir took it
}

// OnPost has f called for every upload of a controller that arrives at an HSDir from now on,
// whether it is taken or not. It runs with the network locked.
func (n *Network) OnPost(f func(Posted)) {
	n.lock()
	defer n.mu.Unlock()
	n.posted = f
}
