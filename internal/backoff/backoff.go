// Package backoff spaces retries: exponentially, up to a longest delay, and with
// jitter, so that what failed together is not retried together.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Backoff is the delay before the next retry. The zero value of failures is usable;
// First and Max are set by the caller. It is not safe for concurrent use.
type Backoff struct {
	First    time.Duration // after the first failure; doubles with each
	Max      time.Duration // longest; 0 for none
	failures int
}

// Next counts a failure and returns the delay before the next try.
func (b *Backoff) Next() time.Duration {
	b.failures++
	return Delay(b.First, b.Max, b.failures)
}

// Failures returns how many failures Next has counted since Reset.
func (b *Backoff) Failures() int { return b.failures }

// Reset forgets the failures.
func (b *Backoff) Reset() { b.failures = 0 }

// Delay returns the delay after so many failures in a row, at least 1: first,
// doubled for each failure after the first, at most longest, with jitter.
func Delay(first, longest time.Duration, failures int) time.Duration {
	delay := first
	for range failures - 1 {
		if delay *= 2; longest > 0 && delay >= longest {
			break
		}
	}
	if longest > 0 {
		delay = min(delay, longest)
	}
	return Jitter(delay)
}

// Jitter spreads d by a tenth either way.
func Jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}
