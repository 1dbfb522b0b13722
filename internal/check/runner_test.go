package check

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

var errNot = errors.New("no")

// network is a Prober: what answers, and what was asked.
type network struct {
	mu      sync.Mutex
	frozen  map[descriptor.Address]bool          // does not answer
	dead    map[descriptor.Address]bool          // its tor says no
	killed  map[descriptor.Address]bool          // relays say no
	ends    map[descriptor.Address]chan struct{} // of the circuits to it
	cut     bool                                 // our own tor is
	tors    map[descriptor.Address]string        // that serve addresses, other than "tor"
	noPort  bool                                 // instances have no such port, which is enough
	cutTor  string                               // is cut off
	checks  map[descriptor.Address]int
	open    map[descriptor.Address]int // checks that have not ended
	fresh   map[descriptor.Address]int
	names   map[string]bool // of circuits
	allowed map[descriptor.Address]bool
}

func newNetwork() *network {
	return &network{
		frozen: map[descriptor.Address]bool{}, dead: map[descriptor.Address]bool{}, killed: map[descriptor.Address]bool{}, ends: map[descriptor.Address]chan struct{}{}, checks: map[descriptor.Address]int{}, open: map[descriptor.Address]int{},
		fresh: map[descriptor.Address]int{}, names: map[string]bool{}, allowed: map[descriptor.Address]bool{},
	}
}

func (n *network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *network) Check(ctx context.Context, a descriptor.Address, spec health.Spec, circuit string, fresh bool) health.Result {
	n.mu.Lock()
	r := health.Result{Began: time.Now(), Via: cmp.Or(spec.Via, n.tors[a], "tor"), Stage: health.Connected}
	n.checks[a]++
	n.open[a]++
	defer n.set(func() { n.open[a]-- })
	if fresh {
		n.fresh[a]++
		if n.names[circuit] {
			panic("the circuit is not new")
		}
	}
	n.names[circuit] = true
	hangs, dead, killed, noPort := n.cut || n.cutTor == r.Via || n.frozen[a], n.dead[a], n.killed[a], n.noPort
	n.mu.Unlock()
	wait := 300 * time.Millisecond
	if hangs {
		wait = spec.Timeout
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
	switch {
	case hangs, killed:
		r.Stage, r.Err = health.NoPoint, errNot
	case noPort:
		r.Stage = health.Answered
	case dead:
		r.Stage, r.Err = health.Answered, errNot
	}
	r.Ended = time.Now()
	return r
}

// Ended tells when the tor of a is killed.
func (n *network) Ended(ctx context.Context, a descriptor.Address, _ string) (<-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noPort {
		return nil, errNot
	}
	if n.ends[a] == nil {
		n.ends[a] = make(chan struct{})
	}
	ended, closed := n.ends[a], make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}()
	return closed, nil
}

// kill kills the tor of a, between two checks: one that is being made may have its
// circuit end before that is followed.
func (n *network) kill(a descriptor.Address) {
	for n.checking(a) {
		time.Sleep(10 * time.Millisecond)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.killed[a] = true
	if n.ends[a] != nil {
		close(n.ends[a])
		delete(n.ends, a)
	}
}

// checking reports whether a check of a is being made.
func (n *network) checking(a descriptor.Address) bool {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open[a] > 0
}

func (n *network) Authorize(_ context.Context, a descriptor.Address, _ *descriptor.ClientKey) error {
	n.set(func() { n.allowed[a] = true })
	return nil
}

func (n *network) Revoke(_ context.Context, a descriptor.Address) error {
	n.set(func() { delete(n.allowed, a) })
	return nil
}

var none descriptor.Address

func address(n byte) descriptor.Address { return descriptor.Address{n} }

var quick = health.Spec{
	Kind: health.TCP, Port: 80, Interval: 2 * time.Second, FastInterval: 500 * time.Millisecond, Timeout: 2 * time.Second, Rise: 2, Fall: 3,
}

// run runs checks of a few instances in virtual time.
func run(t *testing.T, perSecond float64, canary descriptor.Address, count int, do func(n *network, watches []*Watch)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r := New(Config{Prober: n, Seed: 1})
		r.Configure(perSecond, canary, quick)
		ctx, cancel := context.WithCancel(t.Context())
		var watches []*Watch
		for i := range count {
			watches = append(watches, r.Watch(address(byte(i+1)), quick, nil, nil, func() {}))
		}
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		do(n, watches)
		cancel()
		<-done
	})
}

// until returns how long it takes until a watch is out, or in use again.
func until(t *testing.T, w *Watch, out bool) time.Duration {
	began := time.Now()
	for {
		if state := w.State(); state.Out() == out {
			return time.Since(began)
		}
		if time.Since(began) > time.Hour {
			t.Fatalf("not out = %v within an hour: %+v", out, w.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestRunnerFindsFrozen(t *testing.T) {
	run(t, 10, none, 3, func(n *network, watches []*Watch) {
		n.set(func() { n.frozen[address(1)] = true })
		if took := until(t, watches[0], true); took > 11*time.Second {
			t.Errorf("out after %v", took)
		}
		n.set(func() { n.frozen[address(1)] = false })
		if took := until(t, watches[0], false); took > 5*time.Second {
			t.Errorf("back after %v", took)
		}
		for _, w := range watches[1:] {
			if s := w.State(); s.Operating != health.Up || s.Failed > 0 {
				t.Errorf("another: %+v", s)
			}
		}
	})
}

// A killed tor ends the circuit, and relays say no at once.
func TestRunnerFindsKilled(t *testing.T) {
	run(t, 10, none, 3, func(n *network, watches []*Watch) {
		for range 5 {
			n.kill(address(1))
			if took := until(t, watches[0], true); took > 3*time.Second {
				t.Errorf("out after %v", took)
			}
			n.set(func() { n.killed[address(1)] = false })
			until(t, watches[0], false)
			time.Sleep(2 * time.Hour)
		}
	})
}

// Whoever watches is told that an instance is in use again by the operator's word.
func TestRunnerForgives(t *testing.T) {
	run(t, 10, none, 3, func(n *network, watches []*Watch) {
		w, told := watches[0], 0
		w.runner.mu.Lock()
		w.changed = func() { told++ }
		w.runner.mu.Unlock()
		for range 2 {
			n.set(func() { n.dead[address(1)] = true })
			until(t, w, true)
			n.set(func() { n.dead[address(1)] = false })
			time.Sleep(time.Minute)
		}
		if state := w.State(); state.Held.IsZero() {
			t.Fatalf("not held: %+v", state)
		}
		before := told
		if w.Forgive(); told != before+1 {
			t.Errorf("told %d times", told-before)
		}
		if took := until(t, w, false); took > 2*time.Second {
			t.Errorf("in use after %v", took)
		}
	})
}

// tor does not keep a circuit that is not used for minutes: the next check knows that it
// has one of its own.
func TestRunnerRareChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r := New(Config{Prober: n, Seed: 1})
		r.Configure(10, none, quick)
		rare := quick
		rare.Interval = 5 * time.Minute
		r.Watch(address(1), rare, nil, nil, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(time.Hour)
		n.set(func() {
			if made := n.checks[address(1)]; made < 10 || n.fresh[address(1)] != made {
				t.Errorf("%d of %d checks are fresh", n.fresh[address(1)], made)
			}
		})
		cancel()
		<-done
	})
}

// No connection is held to a port that is not there: its end would be the cause of a
// check after each check.
func TestRunnerHoldsNoMissingPort(t *testing.T) {
	run(t, 10, none, 1, func(n *network, watches []*Watch) {
		n.set(func() { n.noPort = true; close(n.ends[address(1)]); n.checks[address(1)] = 0 })
		time.Sleep(10 * time.Minute)
		n.mu.Lock()
		defer n.mu.Unlock()
		if made := n.checks[address(1)]; made < 250 || made > 310 {
			t.Errorf("%d checks, one every 2 s", made)
		}
	})
}

func TestRunnerFindsDeadApplication(t *testing.T) {
	run(t, 10, none, 1, func(n *network, watches []*Watch) { // its tor's answer is evidence enough
		n.set(func() { n.dead[address(1)] = true })
		if took := until(t, watches[0], true); took > 5*time.Second {
			t.Errorf("out after %v", took)
		}
	})
}

// When our own tor is cut off, nothing is taken out, also when it comes back, and
// whether or not there is a canary.
func TestRunnerDoubtsItself(t *testing.T) {
	for name, canary := range map[string]descriptor.Address{"others": none, "canary": address(99)} {
		t.Run(name, func(t *testing.T) {
			for offset := range 20 {
				run(t, 10, canary, 4, func(n *network, watches []*Watch) {
					for range 3 {
						time.Sleep(time.Duration(offset) * 173 * time.Millisecond)
						n.set(func() { n.cut = true })
						time.Sleep(time.Minute + time.Duration(offset)*79*time.Millisecond)
						doubts := 0
						for _, w := range watches {
							if w.State().Doubt {
								doubts++
							}
						}
						if doubts == 0 {
							t.Error("no doubt")
						}
						n.set(func() { n.cut = false })
						for range 200 {
							for _, w := range watches {
								if s := w.State(); s.Out() {
									t.Fatalf("taken out: %+v", s)
								}
							}
							time.Sleep(100 * time.Millisecond)
						}
					}
				})
			}
		})
	}
}

// With a canary that answers, the only instance is known to be down.
func TestRunnerAsksCanary(t *testing.T) {
	run(t, 10, address(99), 1, func(n *network, watches []*Watch) {
		n.mu.Lock()
		visited := n.checks[address(99)]
		n.mu.Unlock()
		if visited > 0 {
			t.Error("the canary was visited though nothing failed")
		}
		n.set(func() { n.frozen[address(1)] = true })
		if took := until(t, watches[0], true); took > 11*time.Second {
			t.Errorf("out after %v", took)
		}
	})
}

// An instance that is alone on its tor is found, too: what is served by another tor is
// visited through that one, the canary as well.
func TestRunnerSeveralTors(t *testing.T) {
	for name, canary := range map[string]descriptor.Address{"others": none, "canary": address(99)} {
		t.Run(name, func(t *testing.T) {
			run(t, 10, canary, 3, func(n *network, watches []*Watch) {
				n.set(func() { n.tors = map[descriptor.Address]string{address(1): "another"} })
				time.Sleep(10 * time.Second)
				n.set(func() { n.frozen[address(1)] = true })
				if took := until(t, watches[0], true); took > 11*time.Second {
					t.Errorf("out after %v", took)
				}
				n.set(func() { n.frozen[address(1)] = false })
				until(t, watches[0], false)
				n.set(func() { n.cutTor = "another" })
				time.Sleep(10 * time.Minute)
				if s := watches[0].State(); s.Out() || !s.Doubt {
					t.Errorf("its tor is cut off: %+v", s)
				}
			})
		})
	}
}

// Few checks get circuits of their own, and never more than the rate, however many
// instances fail.
func TestRunnerRate(t *testing.T) {
	run(t, 2, none, 60, func(n *network, watches []*Watch) {
		time.Sleep(time.Minute)
		count := func() (all, fresh int) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for a := range n.checks {
				all, fresh = all+n.checks[a], fresh+n.fresh[a]
			}
			return all, fresh
		}
		all, fresh := count()
		time.Sleep(10 * time.Minute)
		all2, fresh2 := count()
		if all2-all < 60*600/2*8/10 {
			t.Errorf("%d checks in ten minutes", all2-all)
		}
		if fresh2-fresh > 2*600+10 || fresh2-fresh < 600 {
			t.Errorf("%d fresh circuits in ten minutes", fresh2-fresh)
		}
		n.set(func() {
			for i := range 40 {
				n.frozen[address(byte(i+1))] = true
			}
		})
		_, fresh = count()
		time.Sleep(10 * time.Minute)
		if _, fresh2 = count(); fresh2-fresh > 2*600*5/4 { // companions count beside it
			t.Errorf("%d fresh circuits in ten minutes of failures", fresh2-fresh)
		}
	})
}

// The client key is with tor as long as the instance is checked.
func TestRunnerAuthorizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r := New(Config{Prober: n})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.Run(ctx)
		w := r.Watch(address(1), quick, new(descriptor.ClientKey), nil, func() {})
		time.Sleep(10 * time.Second)
		n.set(func() {
			if !n.allowed[address(1)] {
				t.Error("no key")
			}
		})
		w.Close()
		synctest.Wait()
		n.set(func() {
			if n.allowed[address(1)] {
				t.Error("the key is still there")
			}
		})
	})
}
