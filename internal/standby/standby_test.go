package standby

import (
	"testing"
	"time"

	"onionbalancer/testnet/sim"
)

// While the active machine lives the standby does nothing; when it dies the standby takes
// over before HSDirs have dropped what was published, and yields when it is back.
func TestActiveDiesAndReturns(t *testing.T) {
	onWorld(t, sim.Config{Seed: 1}, nil, func(w *world) {
		w.run(5 * time.Hour)
		if w.standby.taken() || len(w.standby.took) > 0 {
			t.Fatalf("taken over from a living machine: %q", w.standby.why)
		}
		w.active.kill()
		w.until("taken over", 150*time.Minute, w.standby.taken)
		w.run(6 * time.Hour)
		w.active.start()
		w.until("yielded", 7*time.Minute, func() bool { return !w.standby.taken() })
		w.run(4 * time.Hour)
		w.wantNoneLost("the active machine dies and returns")
		t.Logf("%q", w.standby.why)
		if w.standby.taken() || len(w.standby.took) != 1 {
			t.Errorf("%q", w.standby.why)
		}
	})
}
