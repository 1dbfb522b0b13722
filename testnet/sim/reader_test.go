package sim

import (
	"testing"
	"time"
)

// A reader sees what the six HSDirs have, one with an older consensus what those of
// before have, as long as they answer.
func TestReader(t *testing.T) {
	for _, linger := range []time.Duration{0, 24 * time.Hour} {
		inNetwork(t, Config{Seed: 9, Churn: 24 * 0.2, Linger: linger, Relays: 100}, func(t *testing.T, n *Network) {
			i := n.AddInstance(InstanceConfig{ConsensusDelay: 3 * time.Minute})
			early, late := n.NewReader(5*time.Minute), n.NewReader(110*time.Minute)
			missed, stale := 0, 0
			for range 12 * 11 {
				time.Sleep(5 * time.Minute)
				newest := uint64(0)
				for k, d := range early.Read(i.Address()) {
					if d == nil && (time.Now().Minute() > 10) {
						t.Errorf("linger %s: %s: HSDir %d has nothing", linger, time.Now(), k)
					} else if d != nil {
						newest = max(newest, d.RevisionCounter)
					}
				}
				for _, d := range late.Read(i.Address()) {
					switch {
					case d == nil:
						missed++
					case d.RevisionCounter < newest:
						stale++
					}
				}
			}
			if missed == 0 && linger == 0 || stale == 0 && linger > 0 {
				t.Errorf("linger %s: an older consensus led to nothing %d times, to something older %d times", linger, missed, stale)
			}
		})
	}
}
