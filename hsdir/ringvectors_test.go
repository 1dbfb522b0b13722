package hsdir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

type vectorHSDir struct {
	Fingerprint hexBytes `json:"fingerprint"`
	Ed25519     hexBytes `json:"ed25519_identity"`
	Index       hexBytes `json:"hsdir_index"`
	Replica     int      `json:"replica"`
}

type vectorRing struct {
	Name        string          `json:"name"`
	Relays      json.RawMessage `json:"relays"`
	Blinded     hexBytes        `json:"blinded_public_key"`
	Descriptor  string          `json:"descriptor"`
	ValidAfter  int64           `json:"valid_after_unix"`
	Number      uint64          `json:"time_period_number"`
	Minutes     int             `json:"time_period_length_minutes"`
	SRV         hexBytes        `json:"shared_random_value"`
	Current     hexBytes        `json:"current_shared_random"`
	Previous    hexBytes        `json:"previous_shared_random"`
	Replicas    int             `json:"n_replicas"`
	Spread      int             `json:"spread_store"`
	Responsible []vectorHSDir   `json:"responsible"`
	Only        []hexBytes      `json:"responsible_fingerprints"`
}

// network returns a network in which v's relays are HSDirs, and which of its
// rings is v's.
func (v *vectorRing) network(t *testing.T) (*testNetwork, Role) {
	t.Helper()
	var relays []vectorHSDir
	if json.Unmarshal(v.Relays, &relays) != nil {
		for i := 1; i <= 255; i++ { // "255 relays", byte i repeated
			b := bytes.Repeat([]byte{byte(i)}, 32)
			relays = append(relays, vectorHSDir{Fingerprint: b[:20], Ed25519: b})
		}
	}
	// An hour after the period began, the second ring is of that period; at
	// the moments that the vectors name themselves, they say which.
	p := descriptor.Period{Number: v.Number, Length: time.Duration(v.Minutes) * time.Minute}
	at, role := p.Start(descriptor.DefaultRotationOffset).Add(time.Hour), SecondRole
	if v.ValidAfter != 0 {
		at = time.Unix(v.ValidAfter, 0).UTC()
		if v.Descriptor == "first" {
			role = FirstRole
		}
	} else {
		v.Current, v.Previous = v.SRV, make([]byte, 32)
	}
	current, previous := v.Current.key(), v.Previous.key()
	net := &testNetwork{
		ValidAfter: at, FreshUntil: at.Add(time.Hour), ValidUntil: at.Add(3 * time.Hour),
		Params:  []string{fmt.Sprintf("hsdir_n_replicas=%d", v.Replicas), fmt.Sprintf("hsdir_spread_store=%d", v.Spread)},
		Current: &current, Previous: &previous,
	}
	for i, r := range relays {
		net.Relays = append(net.Relays, testRelay{
			Nickname: fmt.Sprintf("r%d", i), Fingerprint: [20]byte(r.Fingerprint), Ed25519: r.Ed25519.key(),
			Flags: hsdirFlags, Protocols: fullProtocols,
		})
	}
	return net, role
}

func TestRingVectors(t *testing.T) {
	var v struct{ Rings []vectorRing }
	readVectors(t, "hashring.json", &v)
	if len(v.Rings) == 0 {
		t.Fatal("no vectors")
	}
	for _, ring := range v.Rings {
		t.Run(ring.Name, func(t *testing.T) {
			net, role := ring.network(t)
			r := mustRing(t, net.parse(t, false), role)
			if r.Period.Number != ring.Number || !bytes.Equal(r.SharedRandom[:], ring.SRV) {
				t.Fatalf("ring of period %v, shared random %x", r.Period, r.SharedRandom)
			}
			got := r.Store(ring.Blinded.key())
			if len(got) != ring.Replicas {
				t.Fatalf("%d replicas, want %d", len(got), ring.Replicas)
			}
			if ring.Responsible != nil {
				checkHSDirs(t, flat(got), ring.Responsible)
				return
			}
			if len(flat(got)) != len(ring.Only) {
				t.Fatalf("%d HSDirs, want %d", len(flat(got)), len(ring.Only))
			}
			// The fingerprints alone, and in another order than ours.
			for _, h := range flat(got) {
				found := false
				for _, want := range ring.Only {
					found = found || bytes.Equal(want, h.Fingerprint[:])
				}
				if !found {
					t.Errorf("%x is not responsible", h.Fingerprint)
				}
			}
		})
	}
}

func checkHSDirs(t *testing.T, got []ResponsibleHSDir, want []vectorHSDir) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d HSDirs, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if !bytes.Equal(g.Fingerprint[:], w.Fingerprint) || !bytes.Equal(g.Index[:], w.Index) || g.Replica != w.Replica {
			t.Errorf("HSDir %d: %x index %x replica %d, want %x %x %d",
				i, g.Fingerprint, g.Index, g.Replica, w.Fingerprint, w.Index, w.Replica)
		}
	}
}
