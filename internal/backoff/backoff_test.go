package backoff

import (
	"testing"
	"time"
)

func TestDelay(t *testing.T) {
	const most = 5 * time.Minute
	least := Policy{Min: 2 * time.Second, Max: most, Random: func() float64 { return 1 }}
	longest := Policy{Min: 2 * time.Second, Max: most, Random: func() float64 { return 0 }}
	for failures, want := range map[int]time.Duration{
		0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second,
		8: 256 * time.Second, 9: most, 10: most, 1 << 40: most,
	} {
		if got := longest.Delay(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
		// Also at the cap, where all would meet without jitter.
		if got := least.Delay(failures); got != want/2 {
			t.Errorf("after %d failures at least %v, want %v", failures, got, want/2)
		}
	}
	if got := (Policy{Min: time.Minute, Random: longest.Random}).Delay(9); got != time.Minute {
		t.Errorf("without Max: %v, want Min", got)
	}
	if got := (Policy{Min: time.Minute, Max: time.Second, Random: longest.Random}).Delay(9); got != time.Minute {
		t.Errorf("with Max below Min: %v, want Min", got)
	}
}

// Waits near the largest duration do not overflow.
func TestDelayHuge(t *testing.T) {
	p := Policy{Min: time.Second, Max: 1<<63 - 1}
	for failures := 1; failures < 200; failures++ {
		if got := p.Delay(failures); got <= 0 {
			t.Fatalf("after %d failures %v", failures, got)
		}
	}
}

func TestRandomByDefault(t *testing.T) {
	p := Policy{Min: time.Hour}
	seen := map[time.Duration]bool{}
	for range 100 {
		d := p.Delay(1)
		if d <= 30*time.Minute || d > time.Hour {
			t.Fatalf("%v is not within half an hour of the hour", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different waits of 100", len(seen))
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{Policy: Policy{Min: time.Second, Max: time.Minute, Random: func() float64 { return 0 }}}
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if got := b.Next(); got != want {
			t.Errorf("after %d failures %v, want %v", b.Failures, got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got != time.Second {
		t.Errorf("after a success %v, want %v", got, time.Second)
	}
}
