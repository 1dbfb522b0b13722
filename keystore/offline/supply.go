package offline

import (
	"context"
	"fmt"
	"math"
	"slices"

	"onionbalancer/descriptor"
)

// Supply returns the last period of the uninterrupted run of certified periods
// that from is in, and how many periods the longest ceremony covered that any of
// them is from: a short one, to fill a gap or for practice, must not put off the
// warnings about the end of a long one. ok is false if from itself is not
// certified; horizon is then of all that is there.
func (c *Custodian) Supply(from descriptor.Period) (last descriptor.Period, horizon int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refreshLocked() != nil || c.state.bundle == nil {
		return descriptor.Period{}, 0, false
	}
	if from.Length != c.state.keys.Length() || c.state.usable(from.Number) == nil {
		return descriptor.Period{}, c.state.horizon(0, math.MaxUint64), false
	}
	through := c.state.through(from.Number)
	return c.state.keys.Period(through), c.state.horizon(from.Number, through), true
}

// horizon returns how many periods the longest ceremony covered that the entries
// of periods from first to last are from.
func (c *contents) horizon(first, last uint64) (periods int) {
	for _, e := range c.bundle.Entries {
		if first <= e.Period && e.Period <= last {
			periods = max(periods, e.Periods)
		}
	}
	return periods
}

// Retire removes the signing keys and certificates of periods before all of
// those in use, never later ones. What the disk lets one overwrite is
// overwritten.
func (c *Custodian) Retire(ctx context.Context, inUse []descriptor.Period) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refreshLocked(); err != nil {
		return err
	}
	if len(inUse) == 0 || slices.ContainsFunc(inUse, func(p descriptor.Period) bool { return p.Length != c.state.keys.Length() }) {
		return nil
	}
	first := inUse[0].Number
	for _, p := range inUse {
		first = min(first, p.Number)
	}
	if keys, entries := c.state.before(first); keys+entries == 0 {
		return nil
	}
	if err := retire(c.dir, first); err != nil {
		return fmt.Errorf("removing the signing keys of periods before %d from %s: %w", first, c.dir, err)
	}
	return c.refreshLocked()
}
