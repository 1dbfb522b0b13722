package backoff

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Max: 10 * time.Second}
	near := func(got, want time.Duration) bool { return got >= want*9/10 && got <= want*11/10 }
	for n, want := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
		if got := b.Next(); !near(got, want*time.Second) {
			t.Errorf("delay %d is %v, want about %v", n+1, got, want*time.Second)
		}
	}
	if b.Failures() != 7 {
		t.Errorf("%d failures, want 7", b.Failures())
	}
	b.Reset()
	if got := b.Next(); !near(got, time.Second) {
		t.Errorf("after a reset: %v", got)
	}
	// The jitter is applied to the longest delay too: else all retries would meet.
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[Delay(time.Second, 10*time.Second, 60)] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}
