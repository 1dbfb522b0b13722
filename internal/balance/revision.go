package balance

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// floorPeriods is how many periods' floors are kept: a descriptor is published
// for two periods, and a clock may step back over a boundary.
const floorPeriods = 4

// revisions hands out revision counters that never repeat nor go back, across
// restarts and whatever the clock does.
type revisions struct {
	service descriptor.Address
	store   Store
	floors  []Floor // at most one for each period
}

// newRevisions loads the floors of a service. With an error it still returns
// something that works: the counters follow the clock.
func newRevisions(service descriptor.Address, store Store) (*revisions, error) {
	floors, err := store.LoadFloors(service)
	return &revisions{service: service, store: store, floors: floors}, err
}

// floorSlack is how far above the period's largest counter a floor may be:
// counters that a clock beyond the period's end had to take.
const floorSlack = 1 << 20

var errFloor = errors.New("the stored revision counter is beyond any of its period, and not believed")

// next returns the revision counter of a descriptor of period p made at now,
// runStart being the beginning of its shared-random run, and stores it as the
// new floor before anybody can have seen it. The counter is what tor would use,
// or one above the floor, whichever is higher.
//
// The counter, unless it is 0, is usable even if the error is not nil: that it
// could not be stored, or that the stored floor was not believed.
func (r *revisions) next(key descriptor.RevisionKey, p descriptor.Period, runStart, now time.Time) (uint64, error) {
	// A clock far off the consensus must not stop a service: the counter then
	// comes from the nearest moment that has one, and the floor keeps the order.
	first, last := runStart, runStart.Add((descriptor.MaxRevisionSeconds-1)*time.Second)
	switch {
	case now.Before(first):
		now = first
	case now.After(last):
		now = last
	}
	counter, err := key.RevisionCounter(runStart, now)
	if err != nil {
		return 0, err
	}
	floor := r.floor(p)
	var doubt error
	if floor.Revision >= counter {
		largest, err := key.RevisionCounter(runStart, last)
		if err != nil {
			return 0, err
		}
		if floor.Revision > largest+floorSlack {
			doubt = fmt.Errorf("%w: %d, want at most %d; was its file edited, or copied from elsewhere?", errFloor, floor.Revision, largest)
		} else {
			counter = floor.Revision + 1
		}
	}
	floor.Revision = counter
	r.forget(p)
	if err := r.store.SaveFloors(r.service, r.floors); err != nil {
		return counter, fmt.Errorf("storing the revision counter: %w", err)
	}
	return counter, doubt
}

// floor returns the entry of p, made if missing.
func (r *revisions) floor(p descriptor.Period) *Floor {
	i := slices.IndexFunc(r.floors, func(f Floor) bool { return f.Period == p.Number && f.Minutes == p.Minutes() })
	if i < 0 {
		i = len(r.floors)
		r.floors = append(r.floors, Floor{Period: p.Number, Minutes: p.Minutes()})
	}
	return &r.floors[i]
}

// forget drops the floors of periods long before p.
func (r *revisions) forget(p descriptor.Period) {
	r.floors = slices.DeleteFunc(r.floors, func(f Floor) bool {
		return f.Minutes == p.Minutes() && f.Period+floorPeriods < p.Number
	})
}
