package hsdir

import (
	"slices"
	"testing"
	"time"

	"onionbalancer/bench/cputime"
)

// publicSize is the number of relays of the public network, rounded up.
const publicSize = 8000

func bothRings(b *testing.B, p *Parser, consensus, microdescs []byte) {
	c, err := p.Parse(consensus, microdescs, false)
	if err != nil {
		b.Fatal(err)
	}
	for _, role := range []Role{FirstRole, SecondRole} {
		r, err := c.Ring(role)
		if err != nil || r.Len() < publicSize-100 {
			b.Fatal(r.Len(), err)
		}
	}
}

// BenchmarkConsensusToRings measures the way from the two documents of a
// network of 8,000 HSDirs to both rings: with nothing remembered, and with
// the consensus of an hour before remembered, when a hundredth of the relays
// came, went or made a new microdescriptor.
func BenchmarkConsensusToRings(b *testing.B) {
	net := randomNetwork(publicSize, 7, publicNoon)
	consensus, microdescs := net.documents()
	later := *net
	later.ValidAfter = net.ValidAfter.Add(time.Hour)
	later.FreshUntil, later.ValidUntil = net.FreshUntil.Add(time.Hour), net.ValidUntil.Add(time.Hour)
	later.Relays = slices.Clone(net.Relays[publicSize/100:])
	for i := range publicSize / 100 {
		later.Relays[i*7].Padding = "family $CHANGED"
	}
	laterConsensus, laterMicrodescs := later.documents()
	size := int64(len(consensus) + len(microdescs))

	b.Run("cold", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		cpu := cputime.Start()
		for b.Loop() {
			bothRings(b, new(Parser), consensus, microdescs)
		}
		cpu.Report(b)
	})
	b.Run("little-changed", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		cpu := cputime.Start()
		for b.Loop() {
			b.StopTimer()
			cpu.Stop()
			p := new(Parser)
			bothRings(b, p, consensus, microdescs)
			cpu.Start()
			b.StartTimer()
			bothRings(b, p, laterConsensus, laterMicrodescs)
		}
		cpu.Report(b)
	})
	b.Run("same", func(b *testing.B) {
		b.SetBytes(size)
		p := new(Parser)
		bothRings(b, p, consensus, microdescs)
		cpu := cputime.Start()
		for b.Loop() {
			bothRings(b, p, consensus, microdescs)
		}
		cpu.Report(b)
	})
}

func BenchmarkResponsible(b *testing.B) {
	c := randomNetwork(publicSize, 7, publicNoon).parse(b, false)
	r := mustRing(b, c, FirstRole)
	for b.Loop() {
		r.Store([32]byte{1})
	}
}
