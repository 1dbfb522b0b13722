package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	fetchTimeout = 2 * time.Minute // for one visitor, as long as tor's own SocksTimeout
	visitorsOnce = 4               // who come at the same time
	shareBand    = 0.12            // how far from an even share an instance may be
)

// visit fetches the public address as someone new, over circuits that nobody
// else has, and returns the name of the instance that answered.
func (d *demo) visit(ctx context.Context) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	visitor := fmt.Sprintf("visitor%d", d.visitors.Add(1))
	began := time.Now()
	name, err := d.lab.net.Client(labClient).Get(ctx, visitor, "http://"+d.lab.front+"/")
	return strings.TrimSpace(name), time.Since(began), err
}

// visits sends that many visitors, a few at a time, and counts who answered.
func (d *demo) visits(ctx context.Context, count int, what string, t *tally) error {
	var wg sync.WaitGroup
	turns := make(chan struct{}, visitorsOnce)
	for range count {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-turns }()
			name, took, err := d.visit(ctx)
			t.add(name, took, err)
			d.line.tell(what + ": " + t.String())
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// firstAnswer waits for the balancer to publish and for a visitor to get
// through, and takes the times from the balancer's start on.
func (d *demo) firstAnswer(ctx context.Context, b *balancerProcess) error {
	d.line.tell("the balancer is starting")
	limited, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("no publication within a minute; see %s", b.log))
	defer cancel()
	if err := b.published(limited); err != nil {
		return err
	}
	d.result.Published = time.Since(b.started).Seconds()
	for {
		name, _, err := d.visit(limited)
		if err == nil {
			d.result.FirstAnswer = time.Since(b.started).Seconds()
			d.result.claim(true, "the public address answers", "first by %s, %.1f s after the balancer was started", name, d.result.FirstAnswer)
			d.line.say("The public address is published %.1f s after the balancer was started; the first answer came after %.1f s.",
				d.result.Published, d.result.FirstAnswer)
			return nil
		}
		if limited.Err() != nil {
			d.result.claim(false, "the public address answers", "%v", err)
			return context.Cause(limited)
		}
	}
}

// spread counts who answers. Visitors choose at random, and a share can be off
// by chance: then as many visitors again decide.
func (d *demo) spread(ctx context.Context, _ *balancerProcess) error {
	var names []string
	for _, s := range d.lab.instances {
		names = append(names, s.Name())
	}
	t := newTally(names)
	if err := d.visits(ctx, d.options.fetches, "visitors", t); err != nil {
		return err
	}
	even := 1 / float64(len(names))
	if off := t.furthest(even); off > shareBand && t.failures() == 0 {
		d.line.say("After %d visitors a share is %.0f percentage points off; as many again will show whether that is chance.", t.total(), 100*off)
		if err := d.visits(ctx, d.options.fetches, "visitors", t); err != nil {
			return err
		}
	}
	d.result.Spread = t.result()
	d.result.claim(t.failures() == 0, "every visitor is served", "%d of %d", t.answered(), t.total())
	off := t.furthest(even)
	d.result.claim(off <= shareBand, "the instances share the visitors evenly",
		"each within %.0f percentage points of %.0f %%, the furthest is off by %.1f", 100*shareBand, 100*even, 100*off)
	d.line.say("%s", strings.TrimRight(d.result.Spread.chart(), "\n"))
	return nil
}

// kill ends the tor of an instance with kill -9, and sends visitors at once.
func (d *demo) kill(ctx context.Context, _ *balancerProcess) error {
	victim := d.lab.instances[0]
	d.line.say("Killing %s: kill -9 %d", victim.Name(), victim.PID())
	victim.Kill()
	var names []string
	for _, s := range d.lab.instances {
		names = append(names, s.Name())
	}
	t := newTally(names)
	if err := d.visits(ctx, max(10, d.options.fetches/2), "visitors without "+victim.Name(), t); err != nil {
		return err
	}
	d.result.Killed = victim.Name()
	d.result.AfterKill = t.result()
	others := slices.DeleteFunc(names, func(name string) bool { return name == victim.Name() })
	d.result.claim(t.failures() == 0 && t.count(victim.Name()) == 0, "a killed instance costs no visitor",
		"%d of %d served by %s; the slowest answer took %.1f s", t.answered(), t.total(), strings.Join(others, " and "), t.slowest().Seconds())
	d.line.say("%s", strings.TrimRight(d.result.AfterKill.chart(), "\n"))
	return nil
}
