package backend

import (
	"math"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/times"
)

// watchedFor is how far apart two fetches may be for the time of a change
// between them to count as known.
const watchedFor = 10 * time.Minute

// renewed returns when an instance published d, found at now for period p, which was
// not there when b was last seen. exact is false if that is only an upper bound.
//
// The revision counter has the time of publication in it, by the instance's clock;
// and is used only if it lies between the two fetches. A live instance must
// not count as silent because of a wrong clock.
func (b *Backend) renewed(p descriptor.Period, d *descriptor.Descriptor, runStart, now time.Time) (at time.Time, exact bool) {
	if b.Descriptor == nil || b.Period != p {
		return now, false
	}
	if now.Sub(b.Seen) <= watchedFor {
		return now, true
	}
	if latest := countedBy(d.RevisionCounter, runStart); !runStart.IsZero() && latest.After(b.Seen) && latest.Before(now) {
		return latest, false
	}
	return now, false
}

// countedBy returns by when tor, whose counters for the period count from runStart,
// took the revision counter n. tor adds up one random number from 1 to 65,536 for
// each second since then (rend-spec-v3, appendix F.2), so the sum tells the time
// without the key, give or take a few minutes.
func countedBy(n uint64, runStart time.Time) time.Time {
	const (
		mean      = 32768.5
		deviation = 18918 / mean // of one second's number, in seconds
	)
	seconds := float64(n) / mean
	if seconds > descriptor.MaxRevisionSeconds {
		return time.Time{}
	}
	seconds += 3 * deviation * math.Sqrt(seconds)
	return runStart.Add(time.Duration(seconds * float64(time.Second)))
}

// Published returns when the instance published Descriptor, and whether that is
// more than an upper bound: the first descriptor after a start of ours, or for
// another period, may have been there for hours.
func (b *Backend) Published() (at time.Time, exact bool) {
	if b.Descriptor == nil || b.Exact {
		return b.Renewed, b.Exact
	}
	// The end of the hour in which tor made it: the certificate of the signing key,
	// made for every upload, ends CertLifetime later.
	return times.Earlier(b.Renewed, b.Descriptor.SigningCert.Expires().Add(-descriptor.CertLifetime)), false
}
