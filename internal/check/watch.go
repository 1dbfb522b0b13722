package check

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

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
	via     string    // the tor of the last check
	circuit string    // that the last check got through
	used    time.Time // when the last check began
	since   int       // checks since the last fresh circuit
	hurry   chan struct{}

	authorized bool // its own goroutine's
}

// Watch begins to check the instance at a. client is for where the Spec connects, and
// what was known by an earlier Watch, unless that is nil, still counts.
// changed is called, by any goroutine, when the instance should be used
// otherwise than before; it must not call the Runner.
func (r *Runner) Watch(a descriptor.Address, spec health.Spec, client *descriptor.ClientKey, earlier *Watch, changed func()) *Watch {
	w := &Watch{runner: r, address: a, spec: spec, client: client, changed: changed, machine: health.NewMachine(spec, time.Now()), hurry: make(chan struct{}, 1)}
	w.random = rand.New(rand.NewPCG(r.cfg.Seed, binary.BigEndian.Uint64(a[:])))
	if spec.Kind == health.None {
		return w
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if earlier != nil {
		w.machine = earlier.machine.With(spec)
	}
	r.watches = append(r.watches, w)
	if r.ctx != nil {
		r.start(w)
	}
	return w
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

// Forgive forgets how often the instance was down, and ends what it is held down for. It is
// checked at once.
func (w *Watch) Forgive() {
	defer w.Hurry()
	r := w.runner
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observe(w, func() { w.machine.Forgive(time.Now()) })
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
	held := following{stop: func() {}}
	defer func() { held.stop() }()
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-w.hurry:
		case <-held.ended:
			held.ended = nil
			w.forget(held.circuit)
		}
		timer.Stop()
		began := time.Now()
		w.once(ctx)
		held = w.follow(ctx, held)
		pause = max(shortestPause, w.next(false)-time.Since(began))
	}
}

// following is the watching of one circuit.
type following struct {
	circuit string
	ended   <-chan struct{} // closed when the circuit ended
	stop    context.CancelFunc
}

// follow watches the circuit that the last check got through, so that the end of the
// instance's tor shows at once and not at the next check.
func (w *Watch) follow(ctx context.Context, held following) following {
	w.runner.mu.Lock()
	circuit := w.circuit
	w.runner.mu.Unlock()
	if circuit == held.circuit {
		return held
	}
	held.stop()
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	if circuit != "" {
		go func() {
			closed, err := w.runner.cfg.Prober.Ended(ctx, w.where(), circuit)
			if err != nil {
				return
			}
			select {
			case <-closed:
				close(ended)
			case <-ctx.Done():
			}
		}()
	}
	return following{circuit, ended, stop}
}

// forget has the next check use another circuit than the one that ended.
func (w *Watch) forget(circuit string) {
	w.runner.mu.Lock()
	defer w.runner.mu.Unlock()
	if w.circuit == circuit {
		w.circuit = ""
	}
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
	if w.authorized && !needed {
		r.revoke(ctx, w.where())
	}
}

// keptFor is for how long a tor keeps a circuit that nothing uses, at least: see
// MaxCircuitDirtiness of our own.
const keptFor = 110 * time.Second

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
	if fresh {
		select {
		case r.room <- struct{}{}:
			defer func() { <-r.room }()
		case <-ctx.Done():
			return
		}
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
	if time.Since(w.used) > keptFor {
		w.circuit = ""
	}
	w.used = time.Now()
	switch spare := r.limit.Tokens() >= 1; {
	case state.Out() && !spare:
		return "", false, false
	case w.circuit != "" && !suspected && !state.Out() && (w.since < freshEvery || !spare):
		return w.circuit, false, false
	}
	w.since = 0
	return r.name(), true, suspected
}
