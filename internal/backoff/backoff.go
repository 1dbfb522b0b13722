// Package backoff says how long to wait before a retry.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Random draws all jitter that nobody says otherwise of, in [0, 1). A test that needs
// the same run twice sets it while nothing else runs.
var Random = rand.Float64

// Policy is an exponential backoff. The wait after the first failure is Min, and
// doubles with each further one in a row up to Max; 0 for Max means Min.
type Policy struct {
	Min, Max time.Duration
	Random   func() float64 // in [0, 1); nil stands for the package's Random
}

// Delay returns the wait after the given number of failures in a row, which is
// 1 or more. It is shortened at random by up to half, after the cap, so that calls that
// failed together are not retried together, however often they failed.
func (p Policy) Delay(failures int) time.Duration {
	wait := p.Min
	for ; failures > 1 && wait < p.Max; failures-- {
		wait += min(wait, p.Max-wait)
	}
	random := p.Random
	if random == nil {
		random = Random
	}
	return wait - time.Duration(random()*float64(wait)/2)
}

// Backoff counts the failures of one thing.
type Backoff struct {
	Policy
	Failures int // in a row
}

// Next records a failure and returns the wait before the next try.
func (b *Backoff) Next() time.Duration {
	b.Failures++
	return b.Delay(b.Failures)
}

// Reset records a success.
func (b *Backoff) Reset() { b.Failures = 0 }

// Jitter varies an interval by a tenth either way, so that timers started together
// do not stay together.
func Jitter(d time.Duration) time.Duration {
	return d + time.Duration((Random()-0.5)*0.2*float64(d))
}

// Sleep waits for d, and reports whether ctx still lives.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
