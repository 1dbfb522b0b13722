package balance

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
)

// counterPeriods is how many periods' counters are kept: a descriptor is published
// for two periods, and a clock may step back over a boundary.
const counterPeriods = 4

// counters has the highest revision counter of each period that may have been used.
// Counters never repeat nor decrease, across restarts and clock changes.
type counters map[descriptor.Period]uint64

// counterStep bounds by how much a counter exceeds the last when the clock is not
// ahead of it: about what tor's differ by in a second.
const counterStep = 1 << 16

// maxStored is the largest stored counter that is believed. Tor's counters have 16
// bits for each second of a run; those that a clock beyond the run's end had to take
// are somewhat above.
const maxStored = descriptor.MaxRevisionSeconds<<16 + 1<<24

var errCounter = errors.New("the stored revision counter is beyond any of its period, and ignored")

// raise takes in what is stored. The error says which of it is not believed: only
// counters from elsewhere can be so large.
func (c counters) raise(stored []state.Ceiling) (err error) {
	for _, s := range stored {
		if s.Counter > maxStored {
			err = fmt.Errorf("%w: %d, want at most %d; was its file edited, or copied from elsewhere?", errCounter, s.Counter, uint64(maxStored))
			continue
		}
		c[period(s)] = max(c[period(s)], s.Counter)
	}
	return err
}

// next returns the revision counter of a descriptor made at now: the one that tor
// would use, or somewhat above the highest one used, whichever is higher.
func (c counters) next(credential *credential.Credential, ring *hsdir.Ring, now time.Time) (uint64, error) {
	counter, err := counterAt(credential, ring, now)
	if err != nil {
		return 0, err
	}
	if used := c[ring.Period]; used >= counter {
		counter = used + 1 + rand.Uint64N(counterStep)
	}
	c[ring.Period] = counter
	return counter, nil
}

// counterAt returns the revision counter that tor would use at now, or at the nearest moment
// that has one: then the counters used keep the order.
func counterAt(credential *credential.Credential, ring *hsdir.Ring, now time.Time) (uint64, error) {
	return credential.Counter(ring.RunStart, descriptor.NearestRevisionTime(ring.RunStart, now))
}

// forget drops the counters of periods long before p.
func (c counters) forget(p descriptor.Period) {
	maps.DeleteFunc(c, func(old descriptor.Period, _ uint64) bool {
		return old.Length == p.Length && old.Number+counterPeriods < p.Number
	})
}

// The lead is how far ahead of the clock counters are taken while most HSDirs refuse
// ours: another publisher's clock was ahead. It goes up fourfold with every
// refusal. Once HSDirs have confirmed ours in the period it is bounded, so that
// two publishers do not race each other to the end of the run.
const (
	leadMin    = time.Minute
	leadMax    = 6 * time.Hour
	leadUnseen = 3 * 24 * time.Hour
)

// lead returns how far ahead of the clock the counter of the edition after last is.
func lead(last *Edition) time.Duration {
	if last == nil || !last.mostRejected() {
		return 0
	}
	longest := leadMax
	if last.heard.IsZero() {
		longest = leadUnseen
	}
	return min(leadMin<<min(2*last.rejections, 20), longest)
}

// refreshAfter returns how long an unchanged edition stays before it is
// refreshed. It follows from the edition, so that another manager knows it,
// and spreads the refreshes of many services. It also follows from the credential's
// seed, a secret: an HSDir, which sees the key and the revision, could else foretell it.
func refreshAfter(seed [32]byte, revision uint64) time.Duration {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("refresh"), seed[:]...), revision))
	return refreshMin + time.Duration(binary.BigEndian.Uint64(sum[:])%uint64(refreshMax-refreshMin))
}
