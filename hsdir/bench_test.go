package hsdir

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"onionbalancer/bench/cputime"
	"onionbalancer/descriptor"
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
	b.Run("families", func(b *testing.B) { // cold, too
		b.SetBytes(size)
		for b.Loop() {
			p := new(Parser)
			p.Families([][20]byte{net.Relays[0].Fingerprint, net.Relays[9].Fingerprint})
			bothRings(b, p, consensus, microdescs)
		}
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

// gate is a Poster whose uploads end one for each value sent to it, or with their
// context.
type gate chan struct{}

func (g gate) HSPost(ctx context.Context, _, _ string, _ []byte) error {
	select {
	case <-g:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// queueServices queues 16 uploads for each of n services.
func queueServices(q *UploadQueue, slots []Slot, n int) {
	body := []byte("descriptor")
	for service := range n {
		u := Upload{Urgency: UrgencyRefresh, Body: func(context.Context, Slot) ([]byte, error) { return body, nil }}
		binary.BigEndian.PutUint32(u.Address[:], uint32(service))
		for period := range uint64(2) {
			at := 8 * (2*service + int(period))
			u.Period, u.Slots = descriptor.Period{Number: period, Length: time.Hour}, slots[at:at+8]
			q.Upload(u)
		}
	}
}

func benchSlots(services int) []Slot {
	slots := make([]Slot, 16*services)
	for i := range slots {
		binary.BigEndian.PutUint32(slots[i].HSDir[:], uint32(i%publicSize))
		slots[i].Reserve = i%8 >= 6
	}
	return slots
}

// BenchmarkUploadQueue measures queueing 16 uploads for each service, and then one
// completion and the launch of the next upload, with the rest pending. It reports
// the memory of a pending upload, its slot apart.
func BenchmarkUploadQueue(b *testing.B) {
	for _, services := range []int{100, 1000, 10_000} {
		slots := benchSlots(services)
		cfg := func(g gate) UploadConfig {
			return UploadConfig{Poster: g, Patience: time.Hour, PerSecond: 1e9, Burst: 1e9}
		}
		b.Run(fmt.Sprintf("queue-%d", len(slots)), func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				b.StopTimer()
				q := NewUploadQueue(cfg(make(gate)))
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				queueServices(q, slots, services)
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				q.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(slots)), "B/upload")
		})
		b.Run(fmt.Sprintf("replace-%d", len(slots)), func(b *testing.B) {
			q := NewUploadQueue(cfg(make(gate)))
			for b.Loop() {
				queueServices(q, slots, services)
			}
			q.Close()
		})
		b.Run(fmt.Sprintf("complete-%d", len(slots)), func(b *testing.B) {
			g := make(gate)
			q := NewUploadQueue(cfg(g))
			queueServices(q, slots, services)
			for b.Loop() {
				g <- struct{}{}
				if q.Pending() < 100 {
					b.StopTimer()
					queueServices(q, slots, services)
					b.StartTimer()
				}
			}
			q.Close()
		})
	}
}
