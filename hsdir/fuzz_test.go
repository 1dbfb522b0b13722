package hsdir

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// checkConsensus holds for whatever the parser accepts.
func checkConsensus(t *testing.T, c *Consensus, err error) {
	t.Helper()
	if err != nil {
		var parse *ParseError
		if !errors.As(err, &parse) || c != nil {
			t.Fatalf("%v is no *ParseError, or comes with a consensus", err)
		}
		return
	}
	if !slices.IsSortedFunc(c.HSDirs, func(a, b Relay) int { return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:]) }) {
		t.Fatal("HSDirs are not in order")
	}
	if c.Coverage.Listed != len(c.HSDirs)+c.Coverage.Missing+c.Coverage.NoIdentity || c.Coverage.Listed > c.Coverage.Relays {
		t.Fatalf("%d HSDirs and coverage %+v", len(c.HSDirs), c.Coverage)
	}
	if !c.NextChange().After(c.ValidAfter) {
		t.Fatalf("valid after %v, next change %v", c.ValidAfter, c.NextChange())
	}
	for _, role := range []Role{FirstRole, SecondRole} {
		r := c.ring(role)
		if r.Len() != len(c.HSDirs) || !slices.IsSortedFunc(r.nodes, compareNodes) {
			t.Fatalf("%s ring of %d nodes for %d HSDirs, or out of order", role, r.Len(), len(c.HSDirs))
		}
		p := c.Params
		if got, want := len(flat(r.Store([32]byte{1}))), min(r.Len(), p.Replicas*p.SpreadStore); got != want {
			t.Fatalf("%d HSDirs responsible, want %d", got, want)
		}
	}
}

func fuzzNetwork() *testNetwork {
	net := randomNetwork(5, 13, publicNoon)
	net.Params = []string{"cc_alg=2", "hsdir_interval=1440", "hsdir_spread_store=4"}
	net.Relays[1].NoMicrodesc = true
	net.Relays[2].Ed25519 = [32]byte{}
	net.Relays[3].Protocols = "HSDir=1-2"
	return net
}

func FuzzConsensus(f *testing.F) {
	consensus, microdescs := fuzzNetwork().documents()
	f.Add(consensus, false)
	f.Add(consensus, true)
	f.Add(bytes.ReplaceAll(consensus, []byte{' '}, []byte("\t ")), false)
	f.Add(edit(f, consensus, "hsdir_interval=1440", "hsdir_interval=30"), false)
	f.Add(edit(f, consensus, "valid-after 2026", "valid-after 0001"), false)
	f.Add(edit(f, consensus, "fresh-until 2026", "fresh-until 9999"), true)
	f.Add(edit(f, consensus, "HSDir=2", "HSDir=0-4294967295,"), false)
	f.Fuzz(func(t *testing.T, consensus []byte, testing bool) {
		c, err := new(Parser).Parse(consensus, microdescs, testing)
		checkConsensus(t, c, err)
	})
}

func FuzzMicrodescriptors(f *testing.F) {
	consensus, microdescs := fuzzNetwork().documents()
	f.Add(microdescs)
	f.Add(bytes.TrimRight(microdescs, "\n"))
	f.Add(bytes.ReplaceAll(microdescs, []byte("onion-key\n"), []byte("@last-listed 2026-11-20 00:00:00\nonion-key\n")))
	f.Add(bytes.ReplaceAll(microdescs, []byte("id ed25519"), []byte("id ed25519 AAAA\nid ed25519")))
	f.Add([]byte("onion-key"))
	f.Fuzz(func(t *testing.T, microdescs []byte) {
		p := new(Parser)
		c, err := p.Parse(consensus, microdescs, false)
		checkConsensus(t, c, err)
		if err != nil {
			return
		}
		// With what it remembers, the parser must come to the same end.
		p.last = nil
		again, err := p.Parse(consensus, microdescs, false)
		if err != nil || !slices.Equal(again.HSDirs, c.HSDirs) || again.Coverage.BadMicrodescs != c.Coverage.BadMicrodescs {
			t.Fatalf("%+v, %v, want %+v", again, err, c)
		}
	})
}

func TestCacheFileForm(t *testing.T) {
	consensus, microdescs := randomNetwork(5, 14, publicNoon).documents()
	for name, text := range map[string][]byte{
		"annotations":     bytes.ReplaceAll(microdescs, []byte("onion-key\n"), []byte("@last-listed 2026-11-20 00:00:00\nonion-key\n")),
		"no last newline": bytes.TrimRight(microdescs, "\n"),
		"leading text":    append([]byte("\n# x\n"), microdescs...),
	} {
		c, err := new(Parser).Parse(consensus, text, false)
		if err != nil || len(c.HSDirs) != 5 {
			t.Errorf("%s: %v, %v, want 5 HSDirs", name, c, err)
		}
	}
}
