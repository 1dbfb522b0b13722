package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

// The last of many instances publishes like the first. BenchmarkNew has what
// thousands of them cost.
func TestScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Config{Relays: 1000})
		defer n.Close()
		var last *Instance
		for range 400 {
			last = n.AddInstance(InstanceConfig{})
		}
		time.Sleep(time.Second)
		if d := decode(t, n, last, nil); len(d.IntroductionPoints) != 3 {
			t.Errorf("the last instance has %d introduction points", len(d.IntroductionPoints))
		}
	})
}

// BenchmarkNew is the cost of a network of 7,000 relays and 3,000 instances,
// with the first upload of them all.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		n := New(Config{Relays: 7000})
		for range 3000 {
			n.AddInstance(InstanceConfig{})
		}
		n.lock()
		n.mu.Unlock()
		n.Close()
	}
}

// BenchmarkDay is the cost of a network and its first day.
func BenchmarkDay(b *testing.B) {
	for name, size := range map[string]struct{ relays, instances int }{
		"small": {60, 3}, "large": {7000, 3000},
	} {
		b.Run(name, func(b *testing.B) {
			// A benchmark cannot enter a bubble itself; a test of its own can.
			day := testing.InternalTest{Name: "day", F: func(t *testing.T) {
				inNetwork(t, Config{Relays: size.relays, Churn: 0.05}, func(t *testing.T, n *Network) {
					for range size.instances {
						n.AddInstance(InstanceConfig{})
					}
					time.Sleep(24 * time.Hour)
				})
			}}
			for b.Loop() {
				if !testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{day}) {
					b.Fatal("the day failed")
				}
			}
		})
	}
}
