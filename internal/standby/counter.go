package standby

import (
	"context"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// madeAt returns when the counter of a run was made, by the clock of who made it.
func madeAt(key descriptor.RevisionKey, runStart time.Time, counter uint64) time.Time {
	at, _, err := key.RevisionTime(runStart, counter)
	switch first, firstErr := key.RevisionCounter(runStart, runStart); {
	case err == nil:
		return at
	case firstErr == nil && counter < first:
		return runStart
	}
	return runStart.Add((descriptor.MaxRevisionSeconds - 1) * time.Second)
}

// guessedAt is madeAt for those without the key, give or take minutes: tor adds up a random
// number from 1 to 65,536 for each second (rend-spec-v3, appendix F.2).
func guessedAt(runStart time.Time, counter uint64) time.Time {
	const mean = 32768.5
	seconds := min(float64(counter)/mean, descriptor.MaxRevisionSeconds)
	return runStart.Add(time.Duration(seconds * float64(time.Second)))
}

// counterAt returns the counter of a moment, or of the nearest in the run.
func counterAt(key descriptor.RevisionKey, runStart, at time.Time) uint64 {
	counter, err := key.RevisionCounter(runStart, descriptor.NearestRevisionTime(runStart, at))
	if err != nil {
		return 0 // it is within the run
	}
	return counter
}

// Records keeps the records of services, as *state.DB does.
type Records interface {
	Service(descriptor.Address) (record state.Service, version uint64, err error)
	SwapService(ctx context.Context, a descriptor.Address, version uint64, record state.Service) (uint64, error)
}

// Raise has a service that starts from its record use counters above the floors, and take
// nothing for published: another machine may have published since the record was written.
// The service must not run.
func Raise(ctx context.Context, store Records, a descriptor.Address, floors []state.Ceiling) error {
	record, version, err := store.Service(a)
	if err != nil {
		return fmt.Errorf("raising the revision counters of %s: %w", a.Short(), err)
	}
	record.Made, record.Ceilings = nil, state.Highest(record.Ceilings, floors)
	if _, err := store.SwapService(ctx, a, version, record); err != nil {
		return fmt.Errorf("raising the revision counters of %s: %w", a.Short(), err)
	}
	return nil
}

// MadeBefore reports whether a record shows that a descriptor was made by who wrote it: for
// Runner.Made, as to earlier processes.
func MadeBefore(record state.Service, d Made) bool {
	return slices.ContainsFunc(record.Made, func(m state.Made) bool {
		return m.Period == d.Period.Number && m.Minutes == d.Period.Minutes() && m.Revision >= d.Counter && m.Signer == state.Bytes32(d.Signer)
	})
}
