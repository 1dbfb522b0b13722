package sim

import (
	"fmt"
	"testing"
	"time"
)

// Ordinary services and their clients, for a month of relays coming and going:
// what tor does loses next to nothing, so neither does the model of it.
func TestMonth(t *testing.T) {
	inNetwork(t, Config{Seed: 7, Relays: 300, Churn: 0.05}, func(t *testing.T, n *Network) {
		var clients []*Client
		for range 3 {
			i := n.AddInstance(InstanceConfig{})
			for range 2 {
				clients = append(clients, n.NewClient(i.Address(), ClientConfig{}))
			}
		}
		time.Sleep(time.Minute)
		requests, tries, lost := 0, 0, 0
		for range 30 * 24 * 6 {
			for _, c := range clients {
				r := c.Request()
				requests++
				tries += r.Tries
				if r.Err != nil {
					lost++
					t.Logf("%s: %v", time.Now().Format("2006-01-02 15:04"), r.Err)
				}
			}
			time.Sleep(10 * time.Minute)
		}
		t.Logf("%d requests, %d tries, %d lost", requests, tries, lost)
		if lost > requests/10000 {
			t.Errorf("%d of %d requests lost", lost, requests)
		}
		// Points die of age while clients still have them: one try in seven or so.
		if tries < requests*105/100 || tries > requests*125/100 {
			t.Errorf("%d tries for %d requests", tries, requests)
		}
	})
}

// The same seed gives the same month, to the last request.
func TestDeterminism(t *testing.T) {
	run := func(seed uint64) string {
		var log string
		inNetwork(t, Config{Seed: seed, Churn: 0.2}, func(t *testing.T, n *Network) {
			i := n.AddInstance(InstanceConfig{})
			c := n.NewClient(i.Address(), ClientConfig{})
			for range 200 {
				time.Sleep(17 * time.Minute)
				r := c.Request()
				log += fmt.Sprint(r.Tries, r.Fetched, r.Err, n.Consensus().Relays[0].Nickname(), ";")
			}
		})
		return log
	}
	if a, b := run(1), run(1); a != b {
		t.Error("two runs of one seed differ")
	}
	if a, b := run(1), run(2); a == b {
		t.Error("runs of different seeds are the same")
	}
}
