package credential

import (
	"errors"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// TestSuccessEndsBackoff: a custodian that certified for one period is back, and is
// asked for the other at once.
func TestSuccessEndsBackoff(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	first, second := d.needs[0].Keys.Period, d.needs[1].Keys.Period
	for range 10 {
		d.certified(now, d.current, first, nil, errors.New("absent"))
	}
	if due := d.Due(now); due.Sub(now) < time.Minute {
		t.Fatalf("retried in %s", due.Sub(now))
	}
	d.certified(now, d.current, second, &Credential{custody: d.current, Expires: now.Add(54 * time.Hour)}, nil)
	f := d.failures[first]
	if f == nil || f.err == nil || now.Before(f.retryAt) {
		t.Errorf("after a success for another period: %+v", f)
	}
	d.Forget(func(descriptor.Period) bool { return true }, nil)
}
