package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// rotation brings the killed instance back and sends a visitor twice a second
// until the time period and the shared random value have changed. The client
// is the one of before: it keeps each descriptor for as long as a tor does,
// over the change of the shared random value, when instances close the
// introduction points that are in the older one.
func (d *demo) rotation(ctx context.Context) error {
	before, err := d.lab.net.Consensus(ctx)
	if err != nil {
		return err
	}
	if err := d.lab.instances[0].Restart(ctx); err != nil {
		return err
	}
	r := &rotationResult{Period: before.NextPeriod(), SharedRandom: before.NextSharedRandom()}
	d.result.Rotation = r
	last := r.Period
	if r.SharedRandom.After(last) {
		last = r.SharedRandom
	}
	// A client may learn of a change one voting interval late.
	until := last.Add(3 * before.VotingInterval())
	d.line.say("%s is back. The time period changes at %s, the shared random value at %s: going on until %s.",
		d.lab.instances[0].Name(), clock(r.Period), clock(r.SharedRandom), clock(until))

	var names []string
	for _, s := range d.lab.instances {
		names = append(names, s.Name())
	}
	t := newTally(names)
	if err := d.visitSteadily(ctx, until, t); err != nil {
		return err
	}
	after, err := d.lab.net.Consensus(ctx)
	if err != nil {
		return err
	}
	r.Visitors = t.result()
	changed := !after.ValidAfter.Before(last) && string(after.SharedRandomCurrent) != string(before.SharedRandomCurrent)
	d.result.claim(changed, "the network has a new period and a new shared random value", "consensus of %s", clock(after.ValidAfter))
	d.result.claim(t.failures() == 0, "the changes cost no visitor", "%d of %d served; the slowest answer took %.1f s",
		t.answered(), t.total(), t.slowest().Seconds())
	d.line.say("%s", r.Visitors.chart())
	return nil
}

// visitSteadily sends a visitor every half second, however long answers take.
func (d *demo) visitSteadily(ctx context.Context, until time.Time, t *tally) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for time.Now().Before(until) {
		wg.Go(func() { t.add(d.visit(ctx)) })
		d.line.tell(fmt.Sprintf("%3.0f s left: %s", time.Until(until).Seconds(), t))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}
