package hsdir

import "onionbalancer/descriptor"

// Slot is a place where a descriptor goes: an HSDir, for one replica.
type Slot struct {
	HSDir   [20]byte // fingerprint
	Replica int      // counted from 1
	// Reserve marks a slot that clients do not ask as long as the ring stays as
	// it is: it is there for relays that come and go.
	Reserve bool
}

// Slots returns the slots of the descriptor of the blinded key b, in the order
// of their worth: first those that clients ask, one of each replica in turn.
func (r *Ring) Slots(b descriptor.BlindedPublicKey) []Slot {
	asked := make(map[[20]byte]bool)
	for _, replica := range r.Fetch(b) {
		for _, h := range replica {
			asked[h.Fingerprint] = true
		}
	}
	var slots, reserve []Slot
	store := r.Store(b)
	for position := range r.params.SpreadStore {
		for _, replica := range store {
			if position >= len(replica) {
				continue
			}
			h := replica[position]
			if s := (Slot{h.Fingerprint, h.Replica, !asked[h.Fingerprint]}); s.Reserve {
				reserve = append(reserve, s)
			} else {
				slots = append(slots, s)
			}
		}
	}
	return append(slots, reserve...)
}
