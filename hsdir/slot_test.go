package hsdir

import (
	"slices"
	"testing"

	"onionbalancer/descriptor"
)

func TestSlots(t *testing.T) {
	r := mustRing(t, randomNetwork(200, 30, publicNoon).parse(t, false), FirstRole)
	b := descriptor.BlindedPublicKey{7}
	slots, store, fetch := r.Slots(b), r.Store(b), r.Fetch(b)
	if len(slots) != 8 {
		t.Fatalf("%d slots, want 8", len(slots))
	}
	for i, s := range slots {
		want := store[i%2][i/2]
		asked := slices.ContainsFunc(flat(fetch), func(h ResponsibleHSDir) bool { return h.Fingerprint == s.HSDir })
		if s.HSDir != want.Fingerprint || s.Replica != want.Replica || s.Reserve != (i >= 6) || s.Reserve == asked {
			t.Errorf("slot %d: %+v, want %+v", i, s, want)
		}
	}
	// Every HSDir that stores has one slot, in small rings too, where what one
	// replica keeps in reserve is what clients ask for another.
	for n := 1; n < 12; n++ {
		r := mustRing(t, randomNetwork(n, uint64(n), publicNoon).parse(t, false), FirstRole)
		slots := r.Slots(b)
		if len(slots) != min(n, 8) || !slices.IsSortedFunc(slots, func(a, b Slot) int { return compareBool(a.Reserve, b.Reserve) }) {
			t.Errorf("%d relays: slots %+v", n, slots)
		}
		for _, h := range flat(r.Fetch(b)) {
			if !slices.ContainsFunc(slots, func(s Slot) bool { return s.HSDir == h.Fingerprint && !s.Reserve }) {
				t.Errorf("%d relays: clients ask %x, which is no slot", n, h.Fingerprint)
			}
		}
	}
}
