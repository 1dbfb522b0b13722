package testnet

import (
	"net"
	"testing"
)

// Two networks at once, of which neither listens on its ports yet, have none in common.
func TestPortsAreOnesOwn(t *testing.T) {
	var pools [2]portPool
	given := map[string]bool{}
	for range 2*portBlock + 1 {
		for n := range pools {
			p, err := pools[n].reserve()
			if err != nil {
				t.Fatal(err)
			}
			if given[p] {
				t.Fatalf("%s was given twice", p)
			}
			given[p] = true
		}
	}
	for n := range pools {
		first := pools[n].claims[0].Addr().(*net.TCPAddr).Port
		pools[n].release()
		if l, err := listenOn(first); err != nil {
			t.Errorf("after release: %v", err)
		} else {
			l.Close()
		}
	}
}
