package balance

import (
	"time"

	"onionbalancer/descriptor"
)

// watchedFor is how far apart two fetches may be for the time of what changed
// between them to be known.
const watchedFor = 10 * time.Minute

// published returns when the instance published what is held. Unless we were
// looking, that is the latest time at which it can have: the first descriptor
// after a start of ours, or for another period, may have lain there for hours.
//
// Silence is counted from when a revision was first seen all the same. What a
// certificate says of the time depends on the clock of the instance, and a
// living one must not fall silent for a wrong clock; of a dead one HSDirs keep
// nothing for longer than keptFor.
func (i *instance) published() (at time.Time, exact bool) {
	if i.held == nil || i.watched {
		return i.renewed, i.watched
	}
	return earlier(i.renewed, publishedBy(i.held)), false
}

// publishedBy returns the end of the hour in which tor made d: the certificate
// of the signing key, made anew for every upload, ends CertLifetime later.
func publishedBy(d *descriptor.Descriptor) time.Time {
	return d.SigningCert.Expires().Add(-descriptor.CertLifetime)
}
