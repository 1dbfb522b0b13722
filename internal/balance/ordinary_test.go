package balance

import (
	"testing"
	"time"

	"onionbalancer/hsdir"
)

// hourly is the consensus of an hour.
func hourly(n int) *hsdir.Consensus {
	at := testNow.Truncate(24 * time.Hour).Add(time.Duration(n) * time.Hour)
	return &hsdir.Consensus{ValidAfter: at, FreshUntil: at.Add(time.Hour), ValidUntil: at.Add(3 * time.Hour)}
}

// A service that is to look ordinary goes by consensuses as old as those of any tor,
// though ours has each at once; if ours has them late itself, the service does not wait.
func TestHearsay(t *testing.T) {
	var h hearsay
	start := hourly(0)
	h.take(start.ValidAfter.Add(50*time.Minute), start, [32]byte{1}) // of any age
	taken := 0
	for minute := range 24 * 60 {
		now := hourly(1).ValidAfter.Add(time.Duration(minute) * time.Minute)
		before := h.has
		newest := hourly(1 + minute/60)
		if minute%60 < 3 {
			newest = hourly(minute / 60)
		}
		c := h.take(now, newest, [32]byte{1})
		if c == before || c.ValidAfter.Equal(before.ValidAfter) {
			if at := h.next([32]byte{1}); !at.IsZero() && !at.After(now) {
				t.Fatalf("%s: due since %s", now, at)
			}
			continue
		}
		taken++
		if after := now.Sub(before.FreshUntil); after < 45*time.Minute || after > 112*time.Minute || c != newest {
			t.Errorf("taken %s after the one before was fresh", after)
		}
	}
	if taken < 24/2 || taken > 24*2/3 {
		t.Errorf("%d taken in a day", taken)
	}
	for n := 30; n < 33; n++ { // as late as any tor has them
		c := hourly(n)
		if got := h.take(c.ValidAfter.Add(40*time.Minute), c, [32]byte{1}); got != c {
			t.Errorf("a late consensus waits, for the one of %s", got.ValidAfter)
		}
	}
}

// Nobody who sees a descriptor can foretell when the next one comes.
func TestRefreshIsSecret(t *testing.T) {
	times := make(map[time.Duration]bool)
	for seed := range byte(10) {
		after := refreshAfter([32]byte{seed}, 5)
		if times[after] = true; after < refreshMin || after > refreshMax || after != refreshAfter([32]byte{seed}, 5) {
			t.Errorf("a refresh after %s", after)
		}
	}
	if len(times) < 10 {
		t.Errorf("%d times of 10 seeds", len(times))
	}
}
