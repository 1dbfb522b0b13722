package daemon

import (
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// Many services that begin at once have more room for garbage, for a while, unless the
// operator says how much.
func TestRush(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	percent := func() int {
		now := debug.SetGCPercent(-1)
		debug.SetGCPercent(now)
		return now
	}
	for _, of := range []struct {
		environment     string
		few, many, then int
	}{
		{"", garbagePercent, rushPercent, garbagePercent},
		{"30", 30, 30, 30},
	} {
		synctest.Test(t, func(t *testing.T) {
			t.Setenv("GOGC", of.environment)
			debug.SetGCPercent(30)
			TuneMemory()
			defer func() { rushOver, ballast = nil, nil }()
			rush(rushLeast - 1)
			if got := percent(); got != of.few {
				t.Errorf("GOGC %q, few services: %d %%", of.environment, got)
			}
			rush(rushLeast)
			time.Sleep(rushTime / 2)
			rush(rushLeast)
			time.Sleep(rushTime - time.Second)
			if got := percent(); got != of.many {
				t.Errorf("GOGC %q, many services: %d %%", of.environment, got)
			}
			time.Sleep(2 * time.Second)
			if got := percent(); got != of.then {
				t.Errorf("GOGC %q, afterwards: %d %%", of.environment, got)
			}
		})
	}
}
