package backend

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state/statetest"
)

// BenchmarkSubscribe is one service more on the instances of thousands, as when a manager of a
// cluster takes those of another over.
func BenchmarkSubscribe(b *testing.B) {
	s := New(Config{Consensus: noNetwork{}, Store: statetest.Open(b, b.TempDir()), Record: func(event.Event) {}})
	instances := []Instance{{Name: "web1", Address: descriptor.Address{1}}, {Name: "web2", Address: descriptor.Address{2}}, {Name: "web3", Address: descriptor.Address{3}}}
	subscribe := func(n int) *Subscription {
		return s.Subscribe(descriptor.Address{9, byte(n >> 8), byte(n)}, instances, time.Minute, func() {})
	}
	for n := range 5000 {
		subscribe(n)
	}
	for b.Loop() {
		subscribe(5000).Close()
	}
}
