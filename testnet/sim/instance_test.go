package sim

import (
	"errors"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// descriptors returns what an instance publishes now.
func (i *Instance) descriptors() (first, second *published) {
	i.net.lock()
	defer i.net.mu.Unlock()
	return i.first, i.second
}

// alive says whether the point of a key reaches its service.
func alive(n *Network, key [32]byte) bool {
	n.lock()
	defer n.mu.Unlock()
	p := n.points[key]
	met, _ := n.meet(p.relay.fingerprint, key, p.owner.instance.Address())
	return met == answered
}

// authKeys are the introduction points of a descriptor, in order.
func authKeys(d *published) [][32]byte {
	d.instance.net.lock()
	defer d.instance.net.mu.Unlock()
	var keys [][32]byte
	for _, p := range d.points {
		p.keys()
		keys = append(keys, p.authKey)
	}
	return keys
}

// A service's two descriptors have points of their own; the second becomes the
// first with the new shared random value, and the first's points die then.
func TestRotation(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{ConsensusDelay: 3 * time.Minute})
		time.Sleep(time.Minute)
		if hour := n.Consensus().ValidAfter.Hour(); hour != 0 {
			t.Fatalf("the test starts at %d hours", hour)
		}
		first, second := i.descriptors()
		if first.period.Next() != second.period {
			t.Errorf("periods %s and %s", first.period, second.period)
		}
		one, two := authKeys(first), authKeys(second)
		if len(one) != 3 || len(two) != 3 || slices.ContainsFunc(one, func(k [32]byte) bool { return slices.Contains(two, k) }) {
			t.Error("the two descriptors share introduction points")
		}
		time.Sleep(12 * time.Hour) // past the new period
		if now, _ := i.descriptors(); now != first {
			t.Error("the service rotated at the new period")
		}
		served := decode(t, n, i, nil).IntroductionPoints
		if !slices.Contains(authKeys(second), served[0].AuthKey) {
			t.Error("what clients fetch after the new period is not the second descriptor")
		}
		time.Sleep(12*time.Hour + 5*time.Minute) // past the new shared random value
		if now, next := i.descriptors(); now != second || next == second {
			t.Error("the service did not rotate at the new shared random value")
		}
		for _, key := range one {
			if alive(n, key) {
				t.Error("a point of the descriptor given up is alive")
			}
		}
	})
}

// Revision counters rise from upload to upload, uploads come every one to two
// hours, and points are replaced within a day.
func TestUploads(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		var last uint64
		var period descriptor.Period
		seen := make(map[[32]byte]bool)
		since := time.Now()
		for range 3 * 24 * 12 {
			time.Sleep(5 * time.Minute)
			d := decode(t, n, i, nil)
			if now := n.Consensus().Period(); now != period {
				period, last = now, 0
			}
			switch {
			case d.RevisionCounter < last:
				t.Fatalf("revision counter %d after %d", d.RevisionCounter, last)
			case d.RevisionCounter > last:
				last, since = d.RevisionCounter, time.Now()
			case time.Since(since) > 125*time.Minute:
				t.Fatalf("no upload for %s", time.Since(since))
			}
			for _, p := range d.IntroductionPoints {
				seen[p.AuthKey] = true
				if left := time.Until(p.Expires); left < 51*time.Hour || left > 54*time.Hour {
					t.Fatalf("a certificate lives for another %s", left)
				}
			}
		}
		if len(seen) < 9 || len(seen) > 30 {
			t.Errorf("%d introduction points in three days, want about 18", len(seen))
		}
	})
}

// What an instance can be made to be.
func TestKindsOfInstances(t *testing.T) {
	inNetwork(t, Config{Seed: 4, Params: map[string]int32{"cc_sendme_inc": 40}}, func(t *testing.T, n *Network) {
		client, err := descriptor.ParseClientKey([]byte("descriptor:x25519:AEBAGBAFAYDQQCIKBMGA2DQPCAIREEYUCULBOGAZDINRYHI6D4QA"))
		if err != nil {
			t.Fatal(err)
		}
		plain := n.AddInstance(InstanceConfig{})
		single := n.AddInstance(InstanceConfig{SingleOnion: true, IntroductionPoints: 20})
		pow := n.AddInstance(InstanceConfig{ProofOfWork: true, NoFlowControl: true})
		auth := n.AddInstance(InstanceConfig{Clients: []descriptor.AuthorizedClient{client.Client()}})
		unknown := n.AddInstance(InstanceConfig{Offline: true})
		old := n.AddInstance(InstanceConfig{LegacyPoint: true})
		junk := n.AddInstance(InstanceConfig{})
		junk.SetGarbage(true)
		time.Sleep(time.Minute)
		if d := decode(t, n, plain, nil); d.FlowControl == nil || d.FlowControl.SendmeInc != 40 || d.SingleOnion || len(d.PowParams) != 0 {
			t.Errorf("plain: %+v", d.Contents)
		}
		if d := decode(t, n, single, nil); !d.SingleOnion || len(d.IntroductionPoints) != 20 {
			t.Errorf("single onion: %+v", d.Contents)
		}
		if d := decode(t, n, pow, nil); len(d.PowParams) != 1 || d.FlowControl != nil || !d.PowParams[0].Expires.After(time.Now()) {
			t.Errorf("proof of work: %+v", d.Contents)
		}
		if d := decode(t, n, old, nil); len(d.IntroductionPoints) != 3 || !d.IntroductionPoints[0].Legacy || d.IntroductionPoints[1].Legacy {
			t.Errorf("legacy point: %+v", d.Contents)
		}
		if d := decode(t, n, auth, client); !d.NeedsClientKey || len(d.IntroductionPoints) != 3 {
			t.Errorf("client authorization: %+v", d.Contents)
		}
		if _, err := tryDecode(n, auth, nil); !errors.Is(err, descriptor.ErrClientKey) {
			t.Errorf("client authorization without a key: %v", err)
		}
		if _, err := tryDecode(n, unknown, nil); !errors.Is(err, ErrNoDescriptor) {
			t.Errorf("an unknown instance: %v", err)
		}
		var damage *descriptor.ParseError
		if _, err := tryDecode(n, junk, nil); !errors.As(err, &damage) || errors.Is(err, descriptor.ErrClientKey) {
			t.Errorf("garbage: %v", err)
		}
		junk.SetGarbage(false)
		unknown.SetOnline(true)
		plain.Withdraw()
		time.Sleep(time.Minute)
		decode(t, n, junk, nil)
		decode(t, n, unknown, nil)
		if _, err := tryDecode(n, plain, nil); !errors.Is(err, ErrNoDescriptor) {
			t.Errorf("a withdrawn descriptor: %v", err)
		}
	})
}
