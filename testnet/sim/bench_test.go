package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

// Thousands of HSDirs and instances stand within two seconds; the limit leaves
// room for the race detector on a busy machine. BenchmarkNew has the figure.
func TestScale(t *testing.T) {
	begin := time.Now()
	synctest.Test(t, func(t *testing.T) {
		n := New(Config{Relays: 7000})
		defer n.Close()
		var last *Instance
		for range 3000 {
			last = n.AddInstance(InstanceConfig{})
		}
		time.Sleep(time.Second)
		if d := decode(t, n, last, nil); len(d.IntroductionPoints) != 3 {
			t.Errorf("the last instance has %d introduction points", len(d.IntroductionPoints))
		}
	})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a network of 7,000 relays and 3,000 instances took %s", took)
	}
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
