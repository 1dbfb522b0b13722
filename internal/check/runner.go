package check

import (
	"context"
	"encoding/binary"
	"fmt"
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
	// Hold keeps a connection open on a circuit, and closes the channel when it ends.
	Hold(ctx context.Context, a descriptor.Address, port uint16, circuit string) (closed <-chan struct{}, err error)
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

func (t through) Hold(ctx context.Context, a descriptor.Address, port uint16, circuit string) (<-chan struct{}, error) {
	return Hold(ctx, t.Dialer, a, port, circuit)
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
	wait  sync.WaitGroup

	mu       sync.Mutex // protects the fields below, and those of the Watches
	ctx      context.Context
	watches  []*Watch
	canary   target
	asking   map[string]bool // tors through which a companion is checked now
	circuits uint64          // named so far
}

// freshEvery is how many checks go by until one gets a circuit of its own, though
// nothing is suspected: it shows whether the instance can be introduced to.
const freshEvery = 10

// New returns a Runner that checks nothing until Run.
func New(cfg Config) *Runner {
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	r := &Runner{cfg: cfg, limit: rate.NewLimiter(0, 0), asking: map[string]bool{}}
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
// client key unless that is nil.
func (r *Runner) Visit(ctx context.Context, spec health.Spec, key *descriptor.ClientKey) health.Result {
	began := time.Now()
	err := r.limit.Wait(ctx)
	if err == nil && key != nil {
		err = r.cfg.Prober.Authorize(ctx, spec.Address, key)
	}
	if err != nil {
		return health.Result{Began: began, Ended: time.Now(), Err: err} // Stage NoTor
	}
	r.mu.Lock()
	circuit := r.name()
	r.mu.Unlock()
	return r.cfg.Prober.Check(ctx, spec.Address, spec, circuit, true)
}

// Watch is one instance that is checked by one Spec.
type Watch struct {
	runner  *Runner
	address descriptor.Address
	spec    health.Spec
	client  *descriptor.ClientKey // for where spec connects to; nil for none
	changed func()
	cancel  context.CancelFunc // nil until it runs
	random  *rand.Rand

	machine *health.Machine
	via     string // the tor of the last check
	circuit string // that the last check got through
	since   int    // checks since the last fresh circuit
	hurry   chan struct{}

	authorized bool // its own goroutine's
}

// Run checks until ctx ends.
func (r *Runner) Run(ctx context.Context) {
	r.mu.Lock()
	r.ctx = ctx
	for _, w := range r.watches {
		r.start(w)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.wait.Wait()
}

// Watch begins to check the instance at a. client is for where the Spec connects.
// changed is called, by any goroutine, when the instance should be used
// otherwise than before; it must not call the Runner.
func (r *Runner) Watch(a descriptor.Address, spec health.Spec, client *descriptor.ClientKey, changed func()) *Watch {
	w := &Watch{runner: r, address: a, spec: spec, client: client, changed: changed, machine: health.NewMachine(spec, time.Now()), hurry: make(chan struct{}, 1)}
	w.random = rand.New(rand.NewPCG(r.cfg.Seed, binary.BigEndian.Uint64(a[:])))
	if spec.Kind == health.None {
		return w
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = append(r.watches, w)
	if r.ctx != nil {
		r.start(w)
	}
	return w
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

// Close ends the checks.
func (w *Watch) Close() {
	r := w.runner
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = slices.DeleteFunc(r.watches, func(other *Watch) bool { return other == w })
	if w.cancel != nil {
		w.cancel()
	}
}

// State returns what the checks have found.
func (w *Watch) State() health.State {
	w.runner.mu.Lock()
	defer w.runner.mu.Unlock()
	return w.machine.State()
}

// Hurry has the next check made at once: something else says that the instance may
// have changed.
func (w *Watch) Hurry() {
	select {
	case w.hurry <- struct{}{}:
	default:
	}
}

// run checks until ctx ends.
func (w *Watch) run(ctx context.Context) {
	defer w.revoke(ctx)
	pause := w.next(true)
	var held <-chan struct{} // closed when the kept circuit ends
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			held = w.hold(ctx, held)
		case <-w.hurry:
		case <-held:
			held = nil // until the next regular check: an application may end idle connections soon
		}
		timer.Stop()
		began := time.Now()
		w.once(ctx)
		pause = max(shortestPause, w.next(false)-time.Since(began))
	}
}

// hold keeps a connection open on the circuit of the last check, so that the end of the
// instance's tor shows at once and not at the next check.
func (w *Watch) hold(ctx context.Context, held <-chan struct{}) <-chan struct{} {
	w.runner.mu.Lock()
	circuit, up := w.circuit, w.machine.State().Operating == health.Up
	w.runner.mu.Unlock()
	if held != nil || circuit == "" || !up || w.spec.Kind == health.Agent {
		return held
	}
	// It ends with ctx; an attempt that hangs is the next check's to find.
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		if closed, err := w.runner.cfg.Prober.Hold(ctx, w.where(), w.spec.Port, circuit); err == nil {
			<-closed
		}
	}()
	return opened
}

// authorize gives tor the client key, once: it is kept there, also over restarts.
func (w *Watch) authorize(ctx context.Context) error {
	if w.client == nil || w.authorized {
		return nil
	}
	err := w.runner.cfg.Prober.Authorize(ctx, w.where(), w.client)
	w.authorized = err == nil
	return err
}

// revoke takes the client key back, unless another Watch needs it.
func (w *Watch) revoke(ctx context.Context) {
	r := w.runner
	r.mu.Lock()
	needed := slices.ContainsFunc(r.watches, func(other *Watch) bool { return other != w && other.client != nil && other.where() == w.where() })
	r.mu.Unlock()
	if !w.authorized || needed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	_ = r.cfg.Prober.Revoke(ctx, w.where()) // a tor that has gone has forgotten it
}

const (
	revokeTimeout = 5 * time.Second
	shortestPause = 50 * time.Millisecond
)

// where is the address that is checked.
func (w *Watch) where() descriptor.Address {
	if w.spec.Address != (descriptor.Address{}) {
		return w.spec.Address
	}
	return w.address
}

// next is the time to the next check. The first ones of many instances are spread
// over a short time.
func (w *Watch) next(first bool) time.Duration {
	w.runner.mu.Lock()
	defer w.runner.mu.Unlock()
	random := w.random.Float64()
	if first {
		return time.Duration(random * float64(w.spec.FastInterval))
	}
	return w.machine.Next(random)
}

// once makes one check.
func (w *Watch) once(ctx context.Context) {
	r := w.runner
	circuit, fresh, suspected := w.choose()
	switch {
	case circuit == "":
		return
	case suspected:
		r.companion(w)
		fallthrough
	case fresh:
		if r.limit.Wait(ctx) != nil {
			return
		}
	}
	if err := w.authorize(ctx); err != nil {
		now := time.Now()
		r.take(w, "", health.Result{Began: now, Ended: now, Err: err}) // Stage NoTor
		return
	}
	result := r.cfg.Prober.Check(ctx, w.address, w.spec, circuit, fresh)
	if ctx.Err() != nil {
		return
	}
	if result.Fresh = fresh; r.take(w, circuit, result) && !suspected {
		r.companion(w)
	}
}

// choose names the circuit of the next check: a new one for the first check, while
// the instance is suspected or out, and now and then. It names none if the check
// should wait, since the rate leaves no room beside those that are suspected.
func (w *Watch) choose() (circuit string, fresh, suspected bool) {
	r := w.runner
	r.mu.Lock()
	defer r.mu.Unlock()
	state := w.machine.State()
	suspected = w.machine.Suspected()
	w.since++
	switch spare := r.limit.Tokens() >= 1; {
	case state.Out() && !spare:
		return "", false, false
	case w.circuit != "" && !suspected && !state.Out() && (w.since < freshEvery || !spare):
		return w.circuit, false, false
	}
	w.since = 0
	return r.name(), true, suspected
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
	return a.Out() != b.Out() || a.Doubt != b.Doubt || a.Admin != b.Admin || a.Weight != b.Weight || !slices.Equal(a.Dead, b.Dead) ||
		a.Out() && a.Operating != b.Operating
}

// companion checks something else through the tor of w, which is suspected, by
// circuits of its own: the canary, or another instance that is up. So it shows
// whether the tor works.
func (r *Runner) companion(w *Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	via := w.via
	if r.asking[via] || r.ctx == nil || r.ctx.Err() != nil {
		return // its result will do
	}
	var up []*Watch
	for _, other := range r.watches {
		if other.where() != w.where() && other.via == via && other.machine.State().Operating == health.Up {
			up = append(up, other)
		}
	}
	canary := r.canary
	if canary.address == (descriptor.Address{}) && len(up) == 0 {
		return
	}
	r.asking[via] = true
	var other *Watch
	if canary.address == (descriptor.Address{}) {
		other = up[w.random.IntN(len(up))]
		other.since = 0
	}
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

// judgeCanary visits the canary on behalf of w.
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
