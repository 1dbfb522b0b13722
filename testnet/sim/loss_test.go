package sim

import (
	"context"
	"errors"
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
