package scale

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/testnet/sim"
)

// idleMost is the memory that a service may take that waits, its goroutines' stacks
// included and garbage not. It took 24 KiB when this was written, and 32 before.
const idleMost = 32 << 10

// TestIdle guards the memory of hosts of thousands of addresses.
func TestIdle(t *testing.T) {
	const few, many = 20, 120
	each := (float64(inUse(t, many)) - float64(inUse(t, few))) / (many - few)
	t.Logf("%.1f KiB for each service", each/1024)
	if each > idleMost {
		t.Errorf("a service that waits takes %.1f KiB, want %d at most", each/1024, idleMost>>10)
	}
}

// inUse returns how much memory is in use while so many services are published.
func inUse(t *testing.T, services int) (bytes uint64) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.New(sim.Config{Seed: 1, Relays: 100})
		defer n.Close()
		f := &fleet{net: newNetwork(t, n)}
		defer f.start(t, services, f.net.populate(replicas))()
		f.publish(t)
		time.Sleep(10 * time.Minute)
		runtime.GC() // which empties pools, the second time
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		bytes = m.HeapAlloc + m.StackInuse
	})
	return bytes
}
