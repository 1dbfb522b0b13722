package check

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Prober makes single checks, as Through does.
type Prober interface {
	// Check makes one check of the instance at a. fresh says that the circuit is new.
	Check(ctx context.Context, a descriptor.Address, spec health.Spec, circuit string, fresh bool) health.Result
	// Ended returns a channel that is closed when the circuit to a ends. ctx ends the
	// watching.
	Ended(ctx context.Context, a descriptor.Address, circuit string) (ended <-chan struct{}, err error)
	// Authorize lets checks read the descriptor of a, Revoke ends that.
	Authorize(ctx context.Context, a descriptor.Address, key *descriptor.ClientKey) error
	Revoke(ctx context.Context, a descriptor.Address) error
}

// Through returns a Prober that checks through tor.
func Through(d Dialer) Prober { return through{d} }

type through struct{ Dialer }

func (t through) Check(ctx context.Context, a descriptor.Address, spec health.Spec, circuit string, fresh bool) health.Result {
	return Once(ctx, t.Dialer, a, spec, circuit, fresh)
}

func (t through) Ended(ctx context.Context, a descriptor.Address, circuit string) (<-chan struct{}, error) {
	return t.Dialer.Ended(ctx, health.Visit{Address: a, Circuit: circuit})
}

// Config is the configuration of a Runner.
type Config struct {
	Prober Prober
	// Seed makes the random intervals reproducible; 0 for others at each start.
	Seed uint64
}

// Runner checks instances, each in its own rhythm. Its methods may be called
// concurrently.
type Runner struct {
	cfg   Config
	limit *rate.Limiter // of fresh circuits
	room  chan struct{} // takes a token of each check that makes its circuits now
	wait  sync.WaitGroup

	mu       sync.Mutex // protects the fields below, and those of the Watches
	ctx      context.Context
	watches  []*Watch
	canary   target
	asking   map[string]bool             // tors through which a companion is checked now
	circuits uint64                      // named so far
	visited  map[descriptor.Address]bool // with a client key, by Visit
}

// freshEvery is how many checks go by until one gets a circuit of its own, though
// nothing is suspected: it shows whether the instance can be introduced to.
const freshEvery = 10

// maxFresh is how many checks make their circuits at the same time. tor works on 32 at
// most for all its clients (MaxClientCircuitsPending), and a check needs up to three.
const maxFresh = 8

// New returns a Runner that checks nothing until Run.
func New(cfg Config) *Runner {
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	r := &Runner{cfg: cfg, limit: rate.NewLimiter(0, 0), room: make(chan struct{}, maxFresh), asking: map[string]bool{}, visited: map[descriptor.Address]bool{}}
	r.Configure(DefaultRate, descriptor.Address{}, health.Spec{})
	return r
}

// DefaultRate is how many checks a second, at most, get circuits of their own, unless
// Configure says otherwise.
const DefaultRate = 2

// Configure changes how many checks a second, at most, get circuits of their own,
// and the canary, which is visited by spec when instances fail: if it fails, too, it
// is our own tor that fails. A zero address stands for the other instances.
func (r *Runner) Configure(perSecond float64, canary descriptor.Address, spec health.Spec) {
	r.limit.SetLimit(rate.Limit(perSecond))
	r.limit.SetBurst(max(1, int(4*perSecond)))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.canary = target{canary, spec}
}

// String says what Configure was told.
func (r *Runner) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	canary := "none"
	if r.canary.address != (descriptor.Address{}) {
		canary = r.canary.address.Short()
	}
	return fmt.Sprintf("%v fresh circuits a second, canary %s", r.limit.Limit(), canary)
}

// target is what a check is made of.
type target struct {
	address descriptor.Address
	spec    health.Spec
}

// Visit makes one check of the address of spec by circuits of its own, with a
// client key unless that is nil, which tor keeps until the end of Run.
func (r *Runner) Visit(ctx context.Context, spec health.Spec, key *descriptor.ClientKey) health.Result {
	began := time.Now()
	err := r.limit.Wait(ctx)
	if err == nil && key != nil {
		r.mu.Lock()
		r.visited[spec.Address] = true
		r.mu.Unlock()
		err = r.cfg.Prober.Authorize(ctx, spec.Address, key)
	}
	if err != nil {
		return health.Result{Began: began, Ended: time.Now(), Err: err} // Stage NoTor
	}
	r.mu.Lock()
	circuit := r.name()
	r.mu.Unlock()
	result := r.cfg.Prober.Check(ctx, spec.Address, spec, circuit, true)
	if result.Stage >= health.Answered {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.through(nil, result.Via, result.Ended)
	}
	return result
}

// Run checks until ctx ends, and then takes the client keys back from tor.
func (r *Runner) Run(ctx context.Context) {
	r.mu.Lock()
	r.ctx = ctx
	for _, w := range r.watches {
		r.start(w)
	}
	r.mu.Unlock()
	<-ctx.Done()
	// Checks are started under r.mu, and none once ctx has ended: Wait misses none.
	r.mu.Lock()
	visited := slices.Collect(maps.Keys(r.visited))
	r.mu.Unlock()
	r.wait.Wait()
	for _, a := range visited {
		r.wait.Go(func() { r.revoke(ctx, a) })
	}
	r.wait.Wait()
}

// revoke takes a client key back from tor. A tor that has gone has forgotten it.
func (r *Runner) revoke(ctx context.Context, a descriptor.Address) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	_ = r.cfg.Prober.Revoke(ctx, a)
}

// start runs the checks of w. The caller holds r.mu.
func (r *Runner) start(w *Watch) {
	if r.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	w.cancel = cancel
	r.wait.Go(func() { w.run(ctx) })
}

// name returns the name of a new circuit. The caller holds r.mu.
func (r *Runner) name() string {
	r.circuits++
	return strconv.FormatUint(r.circuits, 10)
}

// take has the machine of w judge a result, and reports whether w is suspected now. What
// gets through by circuits of its own is evidence for all others.
func (r *Runner) take(w *Watch, circuit string, result health.Result) (suspected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if result.Via != "" {
		w.via = result.Via
	}
	if w.circuit = circuit; result.Err != nil {
		w.circuit = "" // the next check gets another
	}
	r.observe(w, func() { w.machine.Observe(result) })
	if result.Fresh && result.Stage >= health.Answered {
		r.through(w, result.Via, result.Ended)
	}
	return w.machine.Suspected()
}

// through tells all others that something got through a tor. The caller holds r.mu.
func (r *Runner) through(w *Watch, via string, at time.Time) {
	for _, other := range r.watches {
		if other != w && other.via == via && other.machine.Suspected() {
			r.observe(other, func() { other.machine.Through(at) })
		}
	}
}

// observe changes the machine of w, and tells if the instance is to be used otherwise.
func (r *Runner) observe(w *Watch, change func()) {
	before := w.machine.State()
	change()
	if after := w.machine.State(); differs(before, after) {
		w.changed()
	}
}

// differs reports whether a plan may differ between a and b.
func differs(a, b health.State) bool {
	return a.Out() != b.Out() || a.Held.IsZero() != b.Held.IsZero() || a.Doubt != b.Doubt || a.Admin != b.Admin || a.Weight != b.Weight || a.Load.Differs(b.Load) || !slices.Equal(a.Dead, b.Dead) ||
		a.Out() && a.Operating != b.Operating
}

// companion checks something else through the tor of w, which is suspected, by
// circuits of its own: the canary, or another instance that is up, if possible one that
// is checked through that tor anyway. So it shows whether the tor works.
func (r *Runner) companion(w *Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	via := w.via
	if r.asking[via] || r.ctx == nil || r.ctx.Err() != nil {
		return // its result will do
	}
	var near, far []*Watch
	for _, other := range r.watches {
		switch up := other.where() != w.where() && other.machine.State().Operating == health.Up; {
		case up && other.via == via:
			near = append(near, other)
		case up && other.client == nil: // a client key is with one tor at a time
			far = append(far, other)
		}
	}
	canary := r.canary
	var other *Watch
	switch {
	case canary.address != (descriptor.Address{}):
	case len(near) > 0:
		other = near[w.random.IntN(len(near))]
		other.since = 0
	case len(far) > 0:
		one := far[w.random.IntN(len(far))]
		canary = target{one.where(), one.spec}
	default:
		return
	}
	canary.spec.Via = via
	r.asking[via] = true
	ctx, circuit := r.ctx, r.name()
	r.wait.Go(func() {
		if other == nil {
			r.judgeCanary(ctx, canary, w, circuit)
		} else if result := r.cfg.Prober.Check(ctx, other.address, other.spec, circuit, true); ctx.Err() == nil {
			result.Fresh = true
			r.take(other, circuit, result)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.asking, via)
	})
}

// judgeCanary visits the canary, or an instance of another tor, on behalf of w.
func (r *Runner) judgeCanary(ctx context.Context, canary target, w *Watch, circuit string) {
	result := r.cfg.Prober.Check(ctx, canary.address, canary.spec, circuit, true)
	if result.Stage < health.Answered || ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.machine.Suspected() && w.via == result.Via {
		r.observe(w, func() { w.machine.Through(result.Ended) })
	}
	r.through(w, result.Via, result.Ended)
}
