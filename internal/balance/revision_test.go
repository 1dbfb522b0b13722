package balance

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
)

// counting returns a credential and a ring for the counters of period n, whose
// shared-random run began at start.
func counting(t *testing.T, n uint64, start time.Time) (*credential.Credential, *hsdir.Ring) {
	t.Helper()
	p := descriptor.Period{Number: n, Length: 24 * time.Hour}
	blinded, err := testIdentity(t, 1).Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	return &credential.Credential{Revision: blinded.RevisionKey()}, &hsdir.Ring{Period: p, RunStart: start}
}

// Revision counters never repeat nor go back, through steps of the clock either way
// and restarts.
func TestCountersOnlyRise(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1_800_000_000, 0)
	last := map[uint64]uint64{}
	c := counters{}
	now := start.Add(time.Hour)
	for step := range 300 {
		if random.IntN(10) == 0 { // as after a restart
			stored := counters{}
			for p, counter := range c {
				stored[p] = counter
			}
			c = stored
		}
		// An hour either way, now and then a week.
		now = now.Add(time.Duration(random.IntN(7200)-3600) * time.Second)
		if random.IntN(20) == 0 {
			now = start.Add(time.Duration(random.IntN(14*86400)-7*86400) * time.Second)
		}
		key, ring := counting(t, 20000+uint64(random.IntN(2)), start)
		got, err := c.next(key, ring, now)
		if err != nil {
			t.Fatal(err)
		}
		if got <= last[ring.Period.Number] {
			t.Fatalf("step %d: revision counter %d after %d", step, got, last[ring.Period.Number])
		}
		last[ring.Period.Number] = got
	}
	// As tor's own while the clock behaves.
	key, ring := counting(t, 20002, start)
	got, err := counters{}.next(key, ring, start.Add(36*time.Hour))
	want, wantErr := key.Revision.RevisionCounter(start, start.Add(36*time.Hour))
	if err != nil || wantErr != nil || got != want {
		t.Fatalf("revision counter = %d, %v; tor's is %d, %v", got, err, want, wantErr)
	}
}

// A stored counter that no clock can have given is not believed, and said.
func TestCounterBeyondThePeriod(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	key, ring := counting(t, 20000, start)
	c := counters{ring.Period: 1 << 60}
	got, err := c.next(key, ring, start.Add(time.Hour))
	want, _ := key.Revision.RevisionCounter(start, start.Add(time.Hour))
	if got != want || !errors.Is(err, errFloor) {
		t.Fatalf("next = %d, %v; want %d", got, err, want)
	}
}

func TestCountersForgetOldPeriods(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	c := counters{}
	for n := range uint64(20) {
		key, ring := counting(t, 20000+n, start)
		if _, err := c.next(key, ring, start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.forget(ring.Period)
	}
	if len(c) != counterPeriods+1 {
		t.Fatalf("%d counters kept, want %d", len(c), counterPeriods+1)
	}
}
