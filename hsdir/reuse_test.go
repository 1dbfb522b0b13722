package hsdir

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestReuseGivesTheSame lets a network change for three days under one Parser.
// Its rings must be those of a Parser that remembers nothing.
func TestReuseGivesTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	net := randomNetwork(120, 11, publicNoon)
	p := new(Parser)
	for hour := range 72 {
		at := publicNoon.Add(time.Duration(hour) * time.Hour)
		net.ValidAfter, net.FreshUntil, net.ValidUntil = at, at.Add(time.Hour), at.Add(3*time.Hour)
		if at.Hour() == 0 {
			net.Previous = net.Current
			net.Current = new([32]byte)
			fill(rng, net.Current[:])
		}
		// One goes, one comes, one takes a new identity, one a new microdescriptor.
		net.Relays = slices.Delete(net.Relays, hour%100, hour%100+1)
		net.Relays = append(net.Relays, randomNetwork(1, uint64(1000+hour), at).Relays...)
		fill(rng, net.Relays[(hour*7)%100].Ed25519[:])
		net.Relays[(hour*11)%100].Padding = at.Format("p accept 15:04")
		net.Relays[(hour*13)%100].NoMicrodesc = hour%2 == 0
		consensus, microdescs := net.documents()
		c, err := p.Parse(consensus, microdescs, false)
		if err != nil {
			t.Fatal(err)
		}
		fresh := net.parse(t, false)
		if !slices.Equal(c.HSDirs, fresh.HSDirs) || c.Coverage != fresh.Coverage {
			t.Fatalf("%v: HSDirs differ: %+v, want %+v", at, c.Coverage, fresh.Coverage)
		}
		for _, role := range []Role{FirstRole, SecondRole} {
			if !slices.Equal(mustRing(t, c, role).nodes, mustRing(t, fresh, role).nodes) {
				t.Fatalf("%v: the %s ring differs", at, role)
			}
		}
		if again, err := p.Parse(consensus, microdescs, false); err != nil || again != c {
			t.Fatalf("%v: the same documents gave another consensus, %v", at, err)
		}
	}
	if live := 120; len(p.mds.entries) > 2*live+1000 || len(p.indexes.rings) > cachedRings {
		t.Errorf("the parser remembers %d microdescriptors and %d rings", len(p.mds.entries), len(p.indexes.rings))
	}
}

// TestNothingIsComputedTwice marks what the Parser remembers and looks for the
// marks in what it gives next.
func TestNothingIsComputedTwice(t *testing.T) {
	net := randomNetwork(50, 12, publicNoon)
	p := new(Parser)
	c, err := p.Parse(first(net.documents()), second(net.documents()), false)
	if err != nil {
		t.Fatal(err)
	}
	mustRing(t, c, FirstRole)
	nodes := p.indexes.rings[0].nodes
	marked := c.HSDirs[nodes[49].relay]
	nodes[49].index[31] ^= 1
	mark := nodes[49].index
	var renamed [32]byte
	for i := range p.mds.entries {
		if p.mds.entries[i].ed25519 == c.HSDirs[3].Ed25519 {
			p.mds.entries[i].ed25519[0] ^= 1
			renamed = p.mds.entries[i].ed25519
		}
	}
	net.ValidAfter, net.FreshUntil = net.ValidAfter.Add(time.Hour), net.FreshUntil.Add(time.Hour)
	c2, err := p.Parse(first(net.documents()), second(net.documents()), false)
	if err != nil {
		t.Fatal(err)
	}
	if c2.HSDirs[3].Ed25519 != renamed {
		t.Error("a microdescriptor was read again")
	}
	r := mustRing(t, c2, FirstRole)
	at := slices.IndexFunc(r.nodes, func(n node) bool { return n.index == mark })
	if marked != c.HSDirs[3] && (at < 0 || r.relays[r.nodes[at].relay] != marked) {
		t.Error("an index was computed again")
	}
}

func TestForgetsOldMicrodescriptors(t *testing.T) {
	p := new(Parser)
	for round := range 40 {
		net := randomNetwork(100, uint64(round), publicNoon)
		c, err := p.Parse(first(net.documents()), second(net.documents()), false)
		if err != nil || len(c.HSDirs) != 100 {
			t.Fatalf("round %d: %v, %v", round, c, err)
		}
	}
	if n := len(p.mds.entries); n > 1200 || n != len(p.mds.byText) || n != len(p.mds.byDigest) {
		t.Errorf("%d entries, %d texts, %d digests remembered", n, len(p.mds.byText), len(p.mds.byDigest))
	}
}
