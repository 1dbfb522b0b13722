package sim

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestOnlineAndOffline(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		before := decode(t, n, i, nil)
		client := n.NewClient(i.Address(), ClientConfig{})
		if r := client.Request(); r.Err != nil || r.Instance != i || r.Tries != 1 || r.Fetched != 1 {
			t.Errorf("a first request: %+v", r)
		}
		i.SetOnline(false)
		if r := client.Request(); !errors.Is(r.Err, ErrNoPoint) || r.Tries != 3 {
			t.Errorf("with the instance offline: %+v", r)
		}
		time.Sleep(2*time.Hour + 50*time.Minute)
		if after := decode(t, n, i, nil); after.RevisionCounter != before.RevisionCounter {
			t.Error("an instance that is offline uploads")
		}
		time.Sleep(11 * time.Minute)
		if _, err := tryDecode(n, i, nil); !errors.Is(err, ErrNoDescriptor) {
			t.Errorf("its descriptor three hours later: %v", err)
		}
		i.SetOnline(true)
		time.Sleep(15 * time.Second)
		if after := decode(t, n, i, nil); after.RevisionCounter <= before.RevisionCounter || after.IntroductionPoints[0].AuthKey == before.IntroductionPoints[0].AuthKey {
			t.Error("an instance that is back has its old introduction points")
		}
		if r := client.Request(); r.Err != nil || i.Answered() != 2 {
			t.Errorf("with the instance back: %+v", r)
		}
		i.ReplacePoints()
		time.Sleep(15 * time.Second)
		if r := client.Request(); r.Err != nil || r.Tries != 4 || r.Fetched != 1 {
			t.Errorf("with points replaced: %+v, want three dead points and a fetch first", r)
		}
	})
}

// A relay that leaves takes its introduction points with it.
func TestLostRelay(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		client := n.NewClient(i.Address(), ClientConfig{})
		time.Sleep(time.Minute)
		if r := client.Request(); r.Err != nil {
			t.Fatal(r.Err)
		}
		first, _ := i.descriptors()
		lost := authKeys(first)[0]
		n.Relay(relayOf(n, lost)).Remove()
		if alive(n, lost) {
			t.Error("a point on a relay that left is alive")
		}
		time.Sleep(5 * time.Minute)
		if now := authKeys(first); len(now) != 3 || slices.Contains(now, lost) {
			t.Error("the point on a relay that left was not replaced")
		}
		if r := client.Request(); r.Err != nil {
			t.Errorf("after a relay left: %+v", r)
		}
	})
}

// relayOf is the fingerprint of the relay that a point is on.
func relayOf(n *Network, key [32]byte) string {
	n.lock()
	defer n.mu.Unlock()
	return n.points[key].relay.Fingerprint()
}
