package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

const (
	visitorsOnce = 4    // who come at the same time
	shareBand    = 0.12 // how far from its share an instance may be before more visitors are sent
)

// tally counts visitors, and shows how many there were.
func (d *demo) tally(what func() string) *lab.Tally {
	return &lab.Tally{Told: func(t *lab.Tally) { d.line.tell(what() + ": " + tallyLine(d.lab.Names(), t)) }}
}

func tallyLine(names []string, t *lab.Tally) string {
	var b strings.Builder
	answers := t.Answers()
	for _, name := range names {
		fmt.Fprintf(&b, "%s %d, ", name, answers[name])
	}
	fmt.Fprintf(&b, "failed %d", len(t.Failures()))
	return b.String()
}

// firstAnswer waits for the balancer to publish and for a visitor to get
// through, and takes the times from the balancer's start on.
func (d *demo) firstAnswer(ctx context.Context, b *lab.Process) error {
	d.line.tell("the balancer is starting")
	limited, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("no publication within a minute; see %s", b.Log))
	defer cancel()
	published := lab.Published
	if d.options.crowd() { // some may have no room
		published = lab.Confirmed
	}
	if _, err := lab.Await(limited, filepath.Join(d.lab.Dir, "state", status.SocketName), published); err != nil {
		return fmt.Errorf("waiting for the balancer to publish: %w", err)
	}
	d.result.Published = time.Since(b.Started).Seconds()
	name, err := d.lab.FirstVisit(limited, d.lab.front)
	if err != nil {
		d.result.claim(false, "the public address answers", "%v", err)
		return err
	}
	d.result.FirstAnswer = time.Since(b.Started).Seconds()
	d.result.claim(true, "the public address answers", "first by %s, %.1f s after the balancer was started", name, d.result.FirstAnswer)
	d.line.say("The public address is published %.1f s after the balancer was started; the first answer came after %.1f s.",
		d.result.Published, d.result.FirstAnswer)
	return nil
}

// spread counts who answers. Visitors choose at random, and a share can be off
// by chance: then as many visitors again decide.
func (d *demo) spread(ctx context.Context, _ *lab.Process) error {
	names := d.lab.Names()
	t := d.tally(func() string { return "visitors" })
	if err := d.lab.Visits(ctx, d.lab.front, d.options.fetches, visitorsOnce, t); err != nil {
		return err
	}
	expected, err := d.expected(ctx)
	if err != nil {
		return err
	}
	r, band := newTallyResult(names, t), shareBand
	if off := r.furthest(expected); off > shareBand && len(r.Failures) == 0 {
		d.line.say("After %d visitors a share is %.0f percentage points off; as many again will show whether that is chance.", r.Visitors, 100*off)
		if err := d.lab.Visits(ctx, d.lab.front, d.options.fetches, visitorsOnce, t); err != nil {
			return err
		}
		r = newTallyResult(names, t)
		band = chanceBand(r.Visitors)
	}
	d.result.Spread = r
	d.result.claim(len(r.Failures) == 0, "every visitor is served", "%d of %d", r.answered(), r.Visitors)
	off := r.furthest(expected)
	var list []string
	for _, name := range names {
		list = append(list, fmt.Sprintf("%s %.0f %%", name, 100*expected[name]))
	}
	d.result.claim(off <= band, "the instances share the visitors as expected",
		"each within %.0f percentage points of its share (%s), the furthest is off by %.1f", 100*band, strings.Join(list, ", "), 100*off)
	d.line.say("%s", strings.TrimRight(r.chart(), "\n"))
	return nil
}

// chanceBand is how far an instance may be from its share of n visitors, who choose
// at random: four standard deviations, which chance exceeds once in 10,000 times.
func chanceBand(n int) float64 { return 4 * math.Sqrt(0.25/float64(n)) }

// expected returns the share of the visitors that the balancer says each instance
// can expect: an even one, unless two instances have an introduction point on the
// same relay of this small network.
func (d *demo) expected(ctx context.Context) (map[string]float64, error) {
	if _, err := lab.Await(ctx, filepath.Join(d.lab.Dir, "state", status.SocketName), lab.Published); err != nil {
		return nil, fmt.Errorf("asking the balancer for the shares: %w", err)
	}
	return d.shares(ctx)
}

// kill ends the tor of an instance with kill -9, and sends visitors at once.
func (d *demo) kill(ctx context.Context, _ *lab.Process) error {
	victim := d.lab.Instances[0]
	d.line.say("Killing %s: kill -9 %d", victim.Name(), victim.PID())
	victim.Kill()
	t := d.tally(func() string { return "visitors without " + victim.Name() })
	if err := d.lab.Visits(ctx, d.lab.front, max(10, d.options.fetches/2), visitorsOnce, t); err != nil {
		return err
	}
	names := d.lab.Names()
	r := newTallyResult(names, t)
	d.result.Killed, d.result.AfterKill = victim.Name(), r
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == victim.Name() })
	d.result.claim(len(r.Failures) == 0 && r.Answers[victim.Name()] == 0, "a killed instance costs no visitor",
		"%d of %d served by %s; the slowest answer took %.1f s", r.answered(), r.Visitors, strings.Join(others, " and "), r.Slowest)
	d.line.say("%s", strings.TrimRight(r.chart(), "\n"))
	return nil
}

// freeze brings the killed instance back, and stops the tor of another as a machine
// that hangs does: its connections stay, relays go on sending it visitors, and only
// balancer's checks find out.
func (d *demo) freeze(ctx context.Context, _ *lab.Process) error {
	back, victim := d.lab.Instances[0], d.lab.Instances[1]
	reader, err := d.bringBack(ctx, back)
	if err != nil {
		return err
	}
	defer reader.Close()
	d.line.say("%s is back. Freezing %s: kill -STOP %d", back.Name(), victim.Name(), victim.PID())
	if err := victim.Freeze(); err != nil {
		return err
	}
	began := time.Now()
	d.result.Frozen = victim.Name()
	limited, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, fmt.Errorf("%s was still published after three minutes", victim.Name()))
	defer cancel()
	err = d.awaitPoints(limited, reader, victim, false)
	d.result.TakenOut = time.Since(began).Seconds()
	if err != nil && ctx.Err() == nil {
		d.result.claim(false, "a frozen instance is taken out", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	d.result.claim(true, "a frozen instance is taken out", "of status and every HSDir's descriptor %.1f s after it froze", d.result.TakenOut)
	d.line.say("%s is out %.1f s after it froze.", victim.Name(), d.result.TakenOut)
	if err := d.lab.Net.Client(lab.Client).Forget(); err != nil {
		return err
	}
	t := d.tally(func() string { return "new visitors without " + victim.Name() })
	if err := d.lab.Visits(ctx, d.lab.front, max(10, d.options.fetches/3), visitorsOnce, t); err != nil {
		return err
	}
	r := newTallyResult(d.lab.Names(), t)
	d.result.AfterFreeze = r
	d.result.claim(len(r.Failures) == 0 && r.Answers[victim.Name()] == 0, "a frozen instance that is out costs no new visitor",
		"%d of %d served; the slowest answer took %.1f s", r.answered(), r.Visitors, r.Slowest)
	d.line.say("%s", strings.TrimRight(r.chart(), "\n"))
	return victim.Thaw()
}

// bringBack restarts a killed instance until it is in the descriptor again, and returns
// what reads that. On so few relays those that the instance draws may all have points of
// the others, once in a hundred times.
func (d *demo) bringBack(ctx context.Context, back *testnet.Service) (*lab.Reader, error) {
	d.line.tell(back.Name() + " is coming back")
	reader, err := d.lab.NewReader(ctx, lab.Manager)
	if err != nil {
		return nil, err
	}
	for range 3 {
		limited, cancel := context.WithTimeoutCause(ctx, 40*time.Second, fmt.Errorf("%s was not published again", back.Name()))
		err = errors.Join(back.Restart(limited), back.Published(limited))
		if err == nil {
			err = d.awaitPoints(limited, reader, back, true)
		}
		cancel()
		if err == nil {
			return reader, nil
		}
	}
	reader.Close()
	return nil, err
}

// awaitPoints waits until the status and the descriptor of every HSDir that clients ask
// have introduction points of an instance, or none. The error says which of them does not.
func (d *demo) awaitPoints(ctx context.Context, reader *lab.Reader, i *testnet.Service, wanted bool) error {
	own, err := descriptor.ParseAddress(i.Address())
	if err != nil {
		return err
	}
	front, err := descriptor.ParseAddress(d.lab.front)
	if err != nil {
		return err
	}
	began := time.Now()
	what := map[bool]string{true: "back in", false: "out of"}[wanted]
	var points lab.Points
	var lacking error // when it was last looked
	for {
		d.line.tell(fmt.Sprintf("%3.0f s until %s is %s the descriptor", time.Since(began).Seconds(), i.Name(), what))
		if err := reader.Refresh(ctx); err != nil {
			return err
		}
		// Of a frozen instance HSDirs keep the last descriptor.
		if now, err := reader.Fetch(ctx, own); err == nil {
			points = lab.PointsOf(now)
		}
		err := errors.New("HSDirs do not have its own descriptor")
		if points != nil {
			err = d.statusLacks(ctx, i.Name(), wanted)
		}
		if err == nil {
			err = d.hsdirsLack(ctx, reader, front, points, wanted)
		}
		if err == nil {
			return nil
		}
		if lacking == nil || ctx.Err() == nil {
			lacking = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", context.Cause(ctx), lacking)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// statusLacks returns an error unless balancer says that it publishes points of an instance, or
// none.
func (d *demo) statusLacks(ctx context.Context, name string, wanted bool) error {
	s, err := status.Query(ctx, filepath.Join(d.lab.Dir, "state", status.SocketName))
	if err != nil {
		return err
	}
	if len(s.Services) != 1 {
		return fmt.Errorf("balancer has %d services, want one", len(s.Services))
	}
	instances := s.Services[0].Instances
	n := slices.IndexFunc(instances, func(i status.Instance) bool { return i.Name == name })
	switch {
	case n < 0:
		return errors.New("balancer has no such instance")
	case instances[n].Published > 0 != wanted:
		return fmt.Errorf("balancer publishes %d points of it, which is %s", instances[n].Published, instances[n].State)
	}
	return nil
}

// hsdirsLack returns an error unless every HSDir that clients ask has any of the points, or
// none of them.
func (d *demo) hsdirsLack(ctx context.Context, reader *lab.Reader, front descriptor.Address, points lab.Points, wanted bool) error {
	list, err := reader.HSDirs(front)
	if err != nil {
		return err
	}
	for _, h := range list {
		got, err := reader.Ask(ctx, front, h)
		if err == nil && lab.PointsOf(got).Any(points) != wanted {
			err = errors.New("it has another descriptor")
		}
		if err != nil {
			return fmt.Errorf("asking HSDir %s: %w", h, err)
		}
	}
	return nil
}

// rotation sends a visitor twice a second until the time period and the shared random value have changed. The client
// is the one of before: it keeps each descriptor for as long as a tor does,
// over the change of the shared random value, when instances close the
// introduction points that are in the older one.
func (d *demo) rotation(ctx context.Context) error {
	before, err := d.lab.Net.Consensus(ctx)
	if err != nil {
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
	d.line.say("The time period changes at %s, the shared random value at %s: going on until %s.",
		clock(r.Period), clock(r.SharedRandom), clock(until))

	t := d.tally(func() string { return fmt.Sprintf("%3.0f s left", time.Until(until).Seconds()) })
	if err := d.lab.VisitEvery(ctx, d.lab.front, time.Second/2, func() bool { return time.Now().After(until) }, t); err != nil {
		return err
	}
	after, err := d.lab.Net.Consensus(ctx)
	if err != nil {
		return err
	}
	r.Visitors = newTallyResult(d.lab.Names(), t)
	changed := !after.ValidAfter.Before(last) && string(after.SharedRandomCurrent) != string(before.SharedRandomCurrent)
	d.result.claim(changed, "the network has a new period and a new shared random value", "consensus of %s", clock(after.ValidAfter))
	d.result.claim(len(r.Visitors.Failures) == 0, "the changes cost no visitor", "%d of %d served; the slowest answer took %.1f s",
		r.Visitors.answered(), r.Visitors.Visitors, r.Visitors.Slowest)
	d.line.say("%s", r.Visitors.chart())
	return nil
}
