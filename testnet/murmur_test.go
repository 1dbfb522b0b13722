package testnet

import "testing"

func TestMurmurPaths(t *testing.T) {
	for relays := 3; relays <= 30; relays++ {
		met := map[[2]int]bool{}
		paths := murmurPaths(relays)
		for _, path := range paths {
			if len(path) < 2 || len(path) > murmurHops {
				t.Fatalf("%d relays: a path of %d", relays, len(path))
			}
			seen := map[int]bool{}
			for i, relay := range path {
				if seen[relay] || relay >= relays {
					t.Fatalf("%d relays: path %v", relays, path)
				}
				seen[relay] = true
				if i > 0 {
					met[[2]int{min(relay, path[i-1]), max(relay, path[i-1])}] = true
				}
			}
		}
		if want := relays * (relays - 1) / 2; len(met) != want {
			t.Errorf("%d relays: %d of %d pairs met", relays, len(met), want)
		}
		if len(paths) > relays*relays/4+relays {
			t.Errorf("%d relays: as many as %d paths", relays, len(paths))
		}
	}
}
