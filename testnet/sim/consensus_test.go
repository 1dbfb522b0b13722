package sim

import (
	"testing"
	"time"

	"onionbalancer/hsdir"
)

// The documents are read by the parser that reads real tor's, and the ring of
// this package is compared with that of package hsdir, which agrees with real
// tor's vectors: hour by hour over three days, with relays coming and going.
func TestDocumentsAndRings(t *testing.T) {
	for name, cfg := range map[string]Config{
		"public":   {Seed: 1, Relays: 80, WithoutHSDir: 10, Churn: 0.3},
		"testing":  {Seed: 2, Relays: 25, Testing: true},
		"few":      {Seed: 3, Relays: 5},
		"params":   {Seed: 4, Params: map[string]int32{"hsdir_n_replicas": 3, "hsdir_spread_store": 2, "hsdir_spread_fetch": 2}},
		"interval": {Seed: 5, Params: map[string]int32{"hsdir_interval": 720}},
	} {
		t.Run(name, func(t *testing.T) {
			inNetwork(t, cfg, func(t *testing.T, n *Network) {
				var parser hsdir.Parser
				for range 72 {
					compare(t, n, &parser)
					time.Sleep(n.cfg.VotingInterval)
				}
				n.WithholdSharedRandom(true)
				time.Sleep(n.cfg.VotingInterval)
				compare(t, n, &parser)
			})
		})
	}
}

func compare(t *testing.T, n *Network, parser *hsdir.Parser) {
	t.Helper()
	ours := n.Consensus()
	theirs, err := parser.Parse(ours.Text(), ours.Microdescs(), n.cfg.Testing)
	if err != nil {
		t.Fatalf("consensus of %s: %v", ours.ValidAfter, err)
	}
	if !theirs.ValidAfter.Equal(ours.ValidAfter) || !theirs.ValidUntil.Equal(ours.ValidUntil) {
		t.Fatalf("parsed times %s to %s, want %s to %s", theirs.ValidAfter, theirs.ValidUntil, ours.ValidAfter, ours.ValidUntil)
	}
	if theirs.CurrentPeriod() != ours.Period() {
		t.Fatalf("%s: period %s, want %s", ours.ValidAfter, ours.Period(), theirs.CurrentPeriod())
	}
	if !theirs.RunStart(hsdir.SecondRole).Equal(ours.RunStart()) {
		t.Fatalf("%s: run start %s, want %s", ours.ValidAfter, ours.RunStart(), theirs.RunStart(hsdir.SecondRole))
	}
	first, err1 := theirs.First()
	second, err2 := theirs.Second()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	blinded := n.cfg.derive("some blinded key", timeBytes(ours.ValidAfter))
	for _, pair := range []struct {
		name   string
		mine   *ring
		theirs *hsdir.Ring
	}{{"first", ours.first(), first}, {"second", ours.second(), second}, {"current", ours.current(), theirs.Current()}} {
		if pair.mine.key.period != pair.theirs.Period {
			t.Fatalf("%s: %s has period %s, want %s", ours.ValidAfter, pair.name, pair.mine.key.period, pair.theirs.Period)
		}
		same(t, ours.ValidAfter, pair.name+" store", pair.mine.store(&n.cfg, blinded), pair.theirs.Store(blinded))
		same(t, ours.ValidAfter, pair.name+" fetch", pair.mine.fetch(&n.cfg, blinded), pair.theirs.Fetch(blinded))
	}
}

func same(t *testing.T, at time.Time, what string, mine []*Relay, theirs [][]hsdir.ResponsibleHSDir) {
	t.Helper()
	var flat []string
	for _, replica := range theirs {
		for _, r := range replica {
			flat = append(flat, r.Relay.Hex())
		}
	}
	if len(mine) != len(flat) || len(mine) == 0 {
		t.Fatalf("%s: %s: %d HSDirs, want %d", at, what, len(mine), len(flat))
	}
	for i, r := range mine {
		if r.Fingerprint() != flat[i] {
			t.Fatalf("%s: %s: HSDir %d is %s, want %s", at, what, i, r.Fingerprint(), flat[i])
		}
	}
}

func TestChurn(t *testing.T) {
	inNetwork(t, Config{Relays: 200, Churn: 0.25}, func(t *testing.T, n *Network) {
		before := n.Consensus()
		time.Sleep(24 * time.Hour)
		after := n.Consensus()
		kept := 0
		for _, r := range before.Relays {
			if after.relay(r.fingerprint) != nil {
				kept++
			}
		}
		if len(after.Relays) != 200 || kept < 130 || kept > 175 {
			t.Errorf("after a day %d relays, %d of them the same; want 200, about 155", len(after.Relays), kept)
		}
	})
}

func TestPauseVoting(t *testing.T) {
	inNetwork(t, Config{}, func(t *testing.T, n *Network) {
		before := n.Consensus()
		n.PauseVoting(true)
		time.Sleep(5 * time.Hour)
		if n.Consensus() != before {
			t.Error("a consensus was made while voting was paused")
		}
		n.PauseVoting(false)
		time.Sleep(time.Hour)
		if age := time.Since(n.Consensus().ValidAfter); age > time.Hour {
			t.Errorf("the newest consensus is %s old after voting went on", age)
		}
	})
}

// A tor as a client is an hour to three hours behind.
func TestConsensusDelay(t *testing.T) {
	inNetwork(t, Config{Seed: 9}, func(t *testing.T, n *Network) {
		var oldest time.Duration
		changes := 0
		last := n.Tor().Consensus()
		for range 4 * 24 * 60 {
			time.Sleep(time.Minute)
			c := n.Tor().Consensus()
			oldest = max(oldest, time.Since(c.ValidAfter))
			if c != last {
				last = c
				changes++
			}
		}
		if oldest < 2*time.Hour || oldest > 3*time.Hour {
			t.Errorf("the tor's consensus got %s old, want two to three hours", oldest)
		}
		if changes < 4*24/3 || changes > 4*24 {
			t.Errorf("%d consensuses in four days", changes)
		}
	})
}
