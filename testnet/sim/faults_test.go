package sim

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"onionbalancer/internal/tor/control"
)

// Where circuits die, an upload may have worked though nobody hears of it.
func TestLoss(t *testing.T) {
	inNetwork(t, Config{Seed: 1, Loss: 0.4}, func(t *testing.T, n *Network) {
		s := newService(t, n)
		i := n.AddInstance(InstanceConfig{ConsensusDelay: time.Minute})
		time.Sleep(time.Minute)
		points := decode(t, n, i, nil).IntroductionPoints
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			if err := c.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			period := n.Consensus().Period()
			confirmed, silent, secret := 0, 0, 0
			for k, r := range n.Relays() {
				short, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := c.HSPost(short, s.key.Address().Label(), r.Fingerprint(), s.encode(period, uint64(k+1), points...))
				cancel()
				stored, _ := r.Stored(s.keys(period).Blinded)
				switch {
				case err == nil && stored != nil:
					confirmed++
				case errors.Is(err, context.DeadlineExceeded) && stored != nil:
					secret++
				case errors.Is(err, context.DeadlineExceeded):
					silent++
				default:
					t.Errorf("HSDir %d: %v, stored %v", k, err, stored != nil)
				}
			}
			if confirmed < 25 || silent < 4 || secret < 4 {
				t.Errorf("of 60 uploads %d were confirmed, %d lost, and of %d only the answer was", confirmed, silent, secret)
			}
		})
	})
}

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
