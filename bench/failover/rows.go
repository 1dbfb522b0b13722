package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/bench/harness"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// fault is something that happens to instances, and its end.
type fault struct {
	name string
	what string // for the table
	// victims is how many instances of each set it happens to; 0: it happens to the
	// programs' own tors.
	victims     int
	cause, cure func(ctx context.Context, f *field, s *set, v *testnet.Service) error
	// restarts says that cure starts the instance's tor: its points are new then.
	restarts bool
	atMost   time.Duration // that it lasts, instead of the usual time
}

var faults = []*fault{
	{name: "kill", what: "tor killed (`kill -9`)", victims: 1, restarts: true,
		cause: func(_ context.Context, _ *field, _ *set, v *testnet.Service) error { v.Kill(); return nil },
		cure:  restart},
	{name: "web", what: "web server killed", victims: 1, cause: stopWeb, cure: startWeb},
	{name: "frozen", what: "tor frozen (`kill -STOP`)", victims: 1,
		cause: func(_ context.Context, _ *field, _ *set, v *testnet.Service) error { return v.Freeze() },
		cure:  func(_ context.Context, _ *field, _ *set, v *testnet.Service) error { return v.Thaw() }},
	{name: "cut", what: "network cut", victims: 1,
		cause: func(ctx context.Context, f *field, _ *set, v *testnet.Service) error {
			return f.filter.cut(ctx, v.Group())
		},
		cure: func(ctx context.Context, f *field, _ *set, v *testnet.Service) error {
			return f.filter.heal(ctx, v.Group())
		}},
	{name: "ob_config", what: "`ob_config` without the public address", victims: 1, restarts: true,
		cause: func(ctx context.Context, f *field, s *set, v *testnet.Service) error {
			return errors.Join(v.SetMasters(s.spare), restart(ctx, f, s, v))
		},
		atMost: 75 * time.Second,
		// It falls once more by being restarted, and would be held down without a word.
		cure: func(ctx context.Context, f *field, s *set, v *testnet.Service) error {
			return errors.Join(v.SetMasters(s.masters()...), f.word(ctx, "ready", v.Name()), restart(ctx, f, s, v))
		}},
	{name: "own", what: "the manager's own tor cut off"},
	{name: "two", what: "web servers of 2 of 3 killed", victims: 2, cause: stopWeb, cure: startWeb},
}

func restart(ctx context.Context, _ *field, _ *set, v *testnet.Service) error { return v.Restart(ctx) }

func stopWeb(_ context.Context, _ *field, _ *set, v *testnet.Service) error {
	v.StopBackend()
	return nil
}

func startWeb(_ context.Context, _ *field, _ *set, v *testnet.Service) error { return v.StartBackend() }

const (
	warmUp  = 6 * time.Second  // of visitors, before anything happens
	stagger = 2 * time.Second  // between the sets, so that five faults are not one
	atLeast = 30 * time.Second // that a fault lasts
	atMost  = 45 * time.Second
	// afterClean is for how long visitors go on after the last HSDir is clean.
	afterClean = 20 * time.Second
	backWait   = 60 * time.Second
	// rowTakes is how long nothing else may change on the network, until the end of
	// the fault at least.
	rowTakes = 120 * time.Second
)

// turn is what happened to one set, for one of the programs. Times are in seconds
// from the fault, or from its end.
type turn struct {
	Set          int      `json:"set"`
	Clean        *float64 `json:"clean_seconds"` // null: never while the fault lasted
	Back         *float64 `json:"back_seconds"`  // null: it was never out, or not back in time
	Before       [2]count `json:"before"`        // of the client that keeps descriptors, and of the one that drops them
	After        [2]count `json:"after"`
	Publications int      `json:"publications"`
	MostOut      int      `json:"most_out"` // instances missing from a descriptor at the same time
	Panic        *float64 `json:"panic_seconds,omitempty"`
}

// row is a line of the table for each program.
type row struct {
	Name    string                `json:"name"`
	What    string                `json:"what"`
	Began   time.Time             `json:"began"`
	Seconds float64               `json:"seconds"`
	Turns   [len(programs)][]turn `json:"turns"` // of balancer, and of OnionBalance
	Said    []statement           `json:"status_said"`
}

// trial is a row while it is measured.
type trial struct {
	*field
	fault   *fault
	victims map[*set][]*testnet.Service
	caused  map[*set]time.Time
	cured   map[*set]time.Time
	before  map[string]uint64 // revision counters of victims at the cure
	stopped time.Time         // when the fault began to end
	ended   time.Time
}

// measure has one fault happen to all sets, and takes the figures.
func (f *field) measure(ctx context.Context, fault *fault) (_ *row, err error) {
	t := &trial{field: f, fault: fault, victims: map[*set][]*testnet.Service{},
		caused: map[*set]time.Time{}, cured: map[*set]time.Time{}, before: map[string]uint64{}}
	r := &row{Name: fault.name, What: fault.what}
	if f.next+fault.victims > instancesEach {
		f.next = 0
	}
	for _, s := range f.sets {
		t.victims[s] = s.instances[f.next : f.next+fault.victims]
	}
	f.next += fault.victims
	if err := f.calm(ctx, fault.name); err != nil {
		return nil, err
	}
	r.Began = time.Now()
	if err := f.visitors.keeper.Forget(); err != nil {
		return nil, err
	}
	said := listen(ctx, f)
	visits := f.visitors.start(ctx)
	defer func() { visits.end(); said.end() }()
	backoff.Sleep(ctx, warmUp)
	err = t.cause(ctx)
	if err == nil {
		t.last(ctx)
	}
	harness.Progress("%s: waiting for the last visitors", fault.name)
	list := visits.end()
	err = errors.Join(err, t.cure(context.WithoutCancel(ctx)), ctx.Err())
	if err != nil {
		return nil, err
	}
	t.recover(ctx)
	said.end()
	r.Said = said.lines
	for _, p := range programs {
		for _, s := range f.sets {
			r.Turns[p] = append(r.Turns[p], t.turn(p, s, list, said))
		}
	}
	r.Seconds = time.Since(r.Began).Seconds()
	return r, t.forgive(ctx)
}

// forgive has balancer forget that the victims failed, as an operator does who has mended
// them: else it would hold them down when they fail in a later row.
func (t *trial) forgive(ctx context.Context) (err error) {
	for _, victims := range t.victims {
		for _, v := range victims {
			err = errors.Join(err, t.word(ctx, "ready", v.Name()))
		}
	}
	return err
}

// settles is how long after a change of period or shared random value, of which one comes
// every half period, a row begins: all tors have the new consensus by then, and have published.
const settles = 40 * time.Second

// calm waits until all instances are published by both programs, and nothing of the
// network's own is about to change.
func (f *field) calm(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the network was not calm within ten minutes"))
	defer cancel()
	for {
		c := f.watch.Consensus()
		left := time.Until(c.NextChange())
		calm := left > rowTakes && left < c.CurrentPeriod().Length/2-settles
		if calm {
			f.learnAll(ctx, f.instances())
		}
		missing := f.missing()
		harness.Progress("%s: waiting for a calm network, next change in %.0f s, %d instances are missing: %v",
			name, left.Seconds(), len(missing), missing[:min(3, len(missing))])
		if calm && len(missing) == 0 {
			return nil
		}
		if !backoff.Sleep(ctx, 3*time.Second) {
			return fmt.Errorf("waiting for a calm network: %w; not whole: %v", context.Cause(ctx), missing)
		}
	}
}

// learnAll reads the descriptors of instances.
func (f *field) learnAll(ctx context.Context, instances []*testnet.Service) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(5)
	for _, i := range instances {
		group.Go(func() error {
			_ = f.watch.learn(ctx, i.Name(), i.Address()) // what is not known is missing
			return nil
		})
	}
	_ = group.Wait()
}

// instances are those of all sets.
func (f *field) instances() (all []*testnet.Service) {
	for _, s := range f.sets {
		all = append(all, s.instances...)
	}
	return all
}

// missing lists instances that lack in a descriptor that an HSDir has.
func (f *field) missing() (list []string) {
	for _, s := range f.sets {
		for _, p := range programs {
			all := f.watch.sightings(s.addresses[p], time.Now().Add(-10*time.Second), time.Now())
			for _, i := range s.instances {
				latest, _, _ := f.watch.points(i.Name())
				if _, ok := since(all, func(s *sighting) bool { return s.points.Any(latest) }); !ok {
					list = append(list, fmt.Sprintf("%v of %s", i.Name(), p))
				}
			}
		}
	}
	return list
}

// cause has the fault happen to one set after the other.
func (t *trial) cause(ctx context.Context) error {
	if t.fault.victims == 0 {
		for _, s := range t.sets {
			t.caused[s] = time.Now()
		}
		return errors.Join(t.filter.cut(ctx, oursGroup), t.filter.cut(ctx, t.Net.Client(managerTor).Group()))
	}
	return t.each(ctx, t.caused, t.fault.cause)
}

// cure ends it.
func (t *trial) cure(ctx context.Context) error {
	t.stopped = time.Now()
	if t.fault.victims == 0 {
		for _, s := range t.sets {
			t.cured[s] = time.Now()
		}
		return errors.Join(t.filter.heal(ctx, oursGroup), t.filter.heal(ctx, t.Net.Client(managerTor).Group()))
	}
	for _, victims := range t.victims {
		for _, v := range victims {
			_, _, t.before[v.Name()] = t.watch.points(v.Name())
		}
	}
	return t.each(ctx, t.cured, t.fault.cure)
}

// each does something to all victims, set by set, and notes when.
func (t *trial) each(ctx context.Context, when map[*set]time.Time, do func(context.Context, *field, *set, *testnet.Service) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(t.sets))
	for i, s := range t.sets {
		if i > 0 {
			backoff.Sleep(ctx, stagger)
		}
		harness.Progress("%s: set %d of %d", t.fault.name, i+1, len(t.sets))
		when[s] = time.Now()
		wg.Go(func() {
			for _, v := range t.victims[s] {
				errs[i] = errors.Join(errs[i], do(ctx, t.field, s, v))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// last lets the fault last.
func (t *trial) last(ctx context.Context) {
	began := time.Now()
	clean := time.Time{} // when all of balancer's sets were first seen to be so
	for time.Since(began) < cmp.Or(t.fault.atMost, atMost) {
		left := 0
		for _, s := range t.sets {
			if _, ok := t.clean(ours, s, time.Now()); !ok {
				left++
			}
		}
		harness.Progress("%s: since %.0f s, not clean for balancer: %d of %d", t.fault.name, time.Since(began).Seconds(), left, len(t.sets))
		switch {
		case left > 0:
			clean = time.Time{}
		case clean.IsZero():
			clean = time.Now()
		case time.Since(clean) > afterClean && time.Since(began) > atLeast:
			return
		}
		if !backoff.Sleep(ctx, time.Second) {
			return
		}
		t.learn(ctx)
	}
}

// learn reads the victims' descriptors.
func (t *trial) learn(ctx context.Context) {
	var all []*testnet.Service
	for _, victims := range t.victims {
		all = append(all, victims...)
	}
	t.learnAll(ctx, all)
}

// recover waits until the victims are back.
func (t *trial) recover(ctx context.Context) {
	began := time.Now()
	for time.Since(began) < backWait {
		left := 0
		t.learn(ctx)
		for _, p := range programs {
			for _, s := range t.sets {
				if _, ok := t.back(p, s); !ok {
					left++
				}
			}
		}
		harness.Progress("%s: over since %.0f s, not back: %d of %d", t.fault.name, time.Since(began).Seconds(), left, len(programs)*len(t.sets))
		if left == 0 && (t.fault.victims > 0 || time.Since(began) > atLeast) || !backoff.Sleep(ctx, time.Second) {
			break
		}
	}
	t.ended = time.Now()
}

// clean is since when no HSDir has a point of the set's first victim.
func (t *trial) clean(p program, s *set, until time.Time) (time.Time, bool) {
	if t.fault.victims == 0 {
		return time.Time{}, false
	}
	_, points, _ := t.watch.points(t.victims[s][0].Name())
	return cleanSince(t.watch.sightings(s.addresses[p], t.caused[s], until), points)
}

// back is since when all HSDirs have points that the victims have now.
func (t *trial) back(p program, s *set) (time.Time, bool) {
	var last time.Time
	for _, v := range t.victims[s] {
		latest, _, revision := t.watch.points(v.Name())
		if t.fault.restarts && revision <= t.before[v.Name()] {
			return last, false
		}
		all := t.watch.sightings(s.addresses[p], t.cured[s], time.Now())
		moment, ok := since(all, func(s *sighting) bool { return s.points.Any(latest) })
		if !ok {
			return last, false
		}
		if moment.After(last) {
			last = moment
		}
	}
	return last, true
}

// turn takes the figures of one set.
func (t *trial) turn(p program, s *set, visits []visit, said *said) turn {
	r := turn{Set: s.number}
	clean, cleaned := t.clean(p, s, t.stopped)
	if cleaned {
		r.Clean = seconds(clean.Sub(t.caused[s]))
	}
	if back, ok := t.back(p, s); ok && (cleaned || t.fault.restarts) {
		r.Back = seconds(back.Sub(t.cured[s]))
	}
	for _, v := range visits {
		if v.program != p || v.set != s || v.began.Before(t.caused[s]) {
			continue
		}
		if cleaned && !v.began.Before(clean) {
			r.After[v.kind].add(v)
		} else {
			r.Before[v.kind].add(v)
		}
	}
	all := t.watch.sightings(s.addresses[p], t.caused[s], t.ended)
	r.Publications = max(0, len(revisions(all))-1)
	var instances []lab.Points
	for _, i := range s.instances {
		_, points, _ := t.watch.points(i.Name())
		instances = append(instances, points)
	}
	r.MostOut = mostOut(all, instances)
	if at, ok := said.panics[s.addresses[p].String()]; ok {
		r.Panic = seconds(at.Sub(t.caused[s]))
	}
	return r
}

func seconds(d time.Duration) *float64 {
	s := d.Seconds()
	return &s
}

// published waits until HSDirs have confirmed the descriptors that clients fetch of all
// of balancer's services, as it says. It may find fault with instances all the same.
func (f *field) published(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("balancer has not published within five minutes"))
	defer cancel()
	for {
		snapshot, err := status.Query(ctx, f.socket())
		done := err == nil && len(snapshot.Services) == len(f.sets)
		for _, s := range snapshot.Services {
			for _, d := range s.Descriptors {
				done = done && (!d.Current || d.Confirmed == len(d.Slots))
			}
			done = done && len(s.Descriptors) > 0
		}
		if done {
			return nil
		}
		if !backoff.Sleep(ctx, 200*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}
