package hsdir

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

// TestResponsibleAgainstDefinition compares with the definition: sort all
// relays by their distance from the replica's place, take from the front.
func TestResponsibleAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "relays")
		replicas := rapid.IntRange(1, 16).Draw(t, "replicas")
		spread := rapid.IntRange(1, 12).Draw(t, "spread")
		net := randomNetwork(n, rapid.Uint64().Draw(t, "seed"), publicNoon)
		net.Params = []string{fmt.Sprintf("hsdir_n_replicas=%d", replicas), fmt.Sprintf("hsdir_spread_store=%d", spread)}
		consensus, microdescs := net.documents()
		c, err := new(Parser).Parse(consensus, microdescs, false)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.First()
		if err != nil {
			t.Fatal(err)
		}
		b := descriptor.BlindedPublicKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "blinded"))
		got := r.Store(b)
		if len(got) != replicas {
			t.Fatalf("%d replicas, want %d", len(got), replicas)
		}
		taken := map[[20]byte]bool{}
		for i, hsdirs := range got {
			at := hsIndex(b, i+1, r.Period)
			order := slices.Clone(c.HSDirs)
			slices.SortFunc(order, func(x, y Relay) int {
				ix, iy := hsdirIndex(x.Ed25519, r.SharedRandom, r.Period), hsdirIndex(y.Ed25519, r.SharedRandom, r.Period)
				if before := bytes.Compare(ix[:], at[:]) < 0; before != (bytes.Compare(iy[:], at[:]) < 0) {
					if before {
						return 1
					}
					return -1
				}
				return bytes.Compare(ix[:], iy[:])
			})
			order = slices.DeleteFunc(order, func(x Relay) bool { return taken[x.Fingerprint] })
			if want := min(spread, len(order)); len(hsdirs) != want {
				t.Fatalf("replica %d: %d HSDirs, want %d", i+1, len(hsdirs), want)
			}
			for j, h := range hsdirs {
				if h.Relay != order[j] || h.Replica != i+1 {
					t.Fatalf("replica %d, HSDir %d: %v, want %v", i+1, j, h, order[j])
				}
				taken[h.Fingerprint] = true
			}
		}
	})
}

func TestEmptyRing(t *testing.T) {
	consensus, _ := randomNetwork(4, 8, publicNoon).documents()
	c, err := new(Parser).Parse(consensus, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.First(); !errors.Is(err, ErrNoHSDirs) || !strings.Contains(err.Error(), "0 of 4 HSDirs known") {
		t.Errorf("First: %v, want ErrNoHSDirs and a count", err)
	}
	if r := c.Current(); r.Len() != 0 || len(flat(r.Fetch([32]byte{1}))) != 0 || len(r.Store([32]byte{1})) != 2 {
		t.Errorf("the empty ring has HSDirs: %v", r.Store([32]byte{1}))
	}
}

func TestSharedEd25519Identity(t *testing.T) {
	net := randomNetwork(6, 9, publicNoon)
	net.Relays[4].Ed25519 = net.Relays[1].Ed25519
	r := mustRing(t, net.parse(t, false), FirstRole)
	if got := flat(r.Store([32]byte{1})); len(got) != 6 {
		t.Errorf("%d HSDirs, want all 6", len(got))
	}
}

// TestNextChange walks through consensuses one by one: periods, shared random
// run and the clients' ring change exactly when NextChange said they would.
func TestNextChange(t *testing.T) {
	for _, test := range []struct {
		name     string
		interval time.Duration
		params   string
		testing  bool
	}{
		{"public", time.Hour, "", false},
		{"short periods", time.Hour, "hsdir_interval=30", false},
		{"odd periods", time.Hour, "hsdir_interval=1000", false},
		{"long periods", time.Hour, "hsdir_interval=14400", false},
		{"testing", 10 * time.Second, "", true},
		{"testing, not whole minutes", 7 * time.Second, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			type state struct {
				periods  [2]descriptor.Period
				runStart time.Time
				current  Role
			}
			p := new(Parser)
			net := randomNetwork(2, 10, publicNoon)
			if test.params != "" {
				net.Params = []string{test.params}
			}
			var last state
			var next time.Time
			changes := 0
			for at := publicNoon; at.Before(publicNoon.Add(100 * test.interval)); at = at.Add(test.interval) {
				net.ValidAfter, net.FreshUntil, net.ValidUntil = at, at.Add(test.interval), at.Add(3*test.interval)
				c, err := p.Parse(first(net.documents()), second(net.documents()), test.testing)
				if err != nil {
					t.Fatal(err)
				}
				now := state{[2]descriptor.Period{c.Period(FirstRole), c.Period(SecondRole)}, c.RunStart(SecondRole), c.Current().Role}
				if at != publicNoon {
					if changed := now != last; changed != !at.Before(next) {
						t.Fatalf("%v: changed %v, but the next change was to be at %v", at, changed, next)
					}
				}
				if !c.NextChange().After(at) {
					t.Fatalf("%v: next change at %v", at, c.NextChange())
				}
				if c.Current().Period != c.CurrentPeriod() {
					t.Fatalf("%v: clients fetch for %v, want %v", at, c.Current().Period, c.CurrentPeriod())
				}
				if now != last {
					changes++
				}
				last, next = now, c.NextChange()
			}
			if changes < 4 {
				t.Errorf("%d changes seen, want more", changes)
			}
		})
	}
}

func TestFreshness(t *testing.T) {
	c := randomNetwork(1, 1, publicNoon).parse(t, false)
	for _, test := range []struct {
		at                   time.Duration
		live, reasonablyLive bool
	}{
		{-24*time.Hour - time.Second, false, false},
		{-24 * time.Hour, false, true},
		{-time.Second, false, true},
		{0, true, true},
		{3 * time.Hour, true, true},
		{3*time.Hour + time.Second, false, true},
		{27 * time.Hour, false, true},
		{27*time.Hour + time.Second, false, false},
	} {
		now := publicNoon.Add(test.at)
		if c.Live(now) != test.live || c.ReasonablyLive(now) != test.reasonablyLive {
			t.Errorf("%v after valid-after: live %v, reasonably live %v", test.at, c.Live(now), c.ReasonablyLive(now))
		}
	}
}

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
