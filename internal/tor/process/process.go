// Package process runs a tor of our own: it writes tor's configuration,
// starts it, watches it, restarts it when it ends, and stops it.
//
// That tor never outlives us. Three independent mechanisms end it:
// it watches our process (__OwningControllerProcess, every 15 s), it is
// bound to a control connection used only for this (TAKEOWNERSHIP, at
// once), and on Linux the kernel signals it (PR_SET_PDEATHSIG, at once).
//
// A [Process] provides the Dial function and the cookie file that
// internal/tor/control needs; see [Process.ControlConfig]. A client made from them
// reconnects after restarts by itself.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"sync"
	"time"

	"onionbalancer/internal/tor/control"
)

// ErrInUse is wrapped when another tor holds the data directory.
var ErrInUse = errors.New("another tor is running there: is another balancer running with this state_dir?")

// Config says which tor to run and where. Only Dir is required.
type Config struct {
	// Dir holds all of tor's files; it is created with mode 0700.
	Dir string
	// Binary is looked for in PATH when it has no slash; "tor" when empty.
	Binary string
	// ExtraLines are added to the end of torrc. For options that are not lists
	// tor takes the last value, so they would also override ours: an
	// operator's lines come from [ReadLines].
	ExtraLines []string
	// Log gets tor's warnings as warnings and its notices at debug level.
	// tor's SafeLogging keeps addresses out of them.
	Log *slog.Logger
	// OnBootstrap, if set, is called with each step of tor's bootstrap, also
	// after restarts, one call at a time. It should return soon.
	OnBootstrap func(control.Progress)

	times times // zero but in tests
}

// times are the timeouts and delays of the supervisor.
type times struct {
	start      time.Duration // for a started tor to open its control port and answer there
	stop       time.Duration // for a tor to end when told to, before it is killed
	settled    time.Duration // a life this long makes the next pause small again
	minBackoff time.Duration
	maxBackoff time.Duration
	heartbeat  time.Duration // of the owning connection; 0: package control's
	command    time.Duration // of the owning connection; 0: package control's
}

func (t times) withDefaults() times {
	t.start = cmp.Or(t.start, time.Minute)
	t.stop = cmp.Or(t.stop, 10*time.Second)
	t.settled = cmp.Or(t.settled, time.Minute)
	t.minBackoff = cmp.Or(t.minBackoff, 500*time.Millisecond)
	t.maxBackoff = cmp.Or(t.maxBackoff, time.Minute)
	return t
}

// Process is a tor that is kept running. Its methods may be called
// concurrently.
type Process struct {
	cfg    Config
	files  *files
	cancel context.CancelFunc // stops the supervisor
	ended  chan struct{}      // closed when the supervisor has

	stopped sync.Once

	mu        sync.Mutex
	state     State
	listening chan struct{} // closed while tor's control port is open
}

// State is the state of the process for an operator.
type State struct {
	PID       int    // 0 when no tor runs now
	Restarts  int    // starts after the first
	LastError string // how the last tor ended; "" if none did
	Bootstrap control.Progress
}

// Start starts tor and returns when it answers on its control port, which is
// long before its bootstrap is done. When the first tor cannot be started the
// error says why, in tor's words where it has any, and nothing is left
// running. ctx bounds the start only; Stop stops the started process.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.times = cfg.times.withDefaults()
	binary, err := exec.LookPath(cmp.Or(cfg.Binary, "tor"))
	if err != nil {
		return nil, &control.Advice{
			Err: fmt.Errorf("starting tor: %w", err),
			Fix: "install it (Debian: apt install tor), or use a running one by a [tor] table",
		}
	}
	cfg.Binary = binary
	files, err := prepare(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("starting tor in %s: %w", cfg.Dir, err)
	}
	p := &Process{cfg: cfg, files: files, ended: make(chan struct{}), listening: make(chan struct{})}
	if err := p.begin(ctx); err != nil {
		files.release()
		return nil, fmt.Errorf("starting tor in %s: %w", cfg.Dir, err)
	}
	return p, nil
}

// begin starts the supervisor and waits for its first tor.
func (p *Process) begin(ctx context.Context) error {
	var run context.Context
	run, p.cancel = context.WithCancel(context.Background())
	first := make(chan error, 1)
	go p.supervise(run, first)
	var err error
	select {
	case err = <-first:
	case <-ctx.Done():
		err = fmt.Errorf("waiting for its control port: %w", ctx.Err())
	}
	if err != nil {
		p.cancel()
		<-p.ended
	}
	return err
}

// Stop stops tor, first with a signal and then by force, and returns when it is
// gone. It may be called again.
func (p *Process) Stop() {
	p.cancel()
	<-p.ended
	p.stopped.Do(p.files.release)
}

// State returns the current state.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Dial connects to the control port of the tor that runs now. While tor is
// being started it waits for the port to open, or for ctx.
func (p *Process) Dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	listening := p.listening
	p.mu.Unlock()
	select {
	case <-listening:
	case <-p.ended:
		return nil, errors.New("our tor was stopped")
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for our tor to open its control port: %w", ctx.Err())
	}
	return control.DialTarget("unix:" + p.files.socket)(ctx)
}

// ControlConfig is the configuration of a control.Client for this tor.
func (p *Process) ControlConfig() control.Config {
	return control.Config{Dial: p.Dial, CookieFile: p.files.path(cookieFile), Log: p.cfg.Log}
}

// Socket is the path of tor's control socket. Its cookie is asked of tor.
func (p *Process) Socket() string { return p.files.socket }

// SocksSocket is the path of tor's SOCKS port, a unix socket that only our user
// and root can reach. It accepts only onion addresses, and answers with the
// extended errors of proposal 304. tor opens it together with its control port.
func (p *Process) SocksSocket() string { return p.files.socks }

// note changes the state.
func (p *Process) note(change func(*State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
}

// noteOpen wakes the waiting calls of Dial.
func (p *Process) noteOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.listening)
}

func (p *Process) noteEnd(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.PID, p.state.Bootstrap = 0, control.Progress{}
	if err != nil {
		p.state.LastError = err.Error()
	}
	select {
	case <-p.listening:
		p.listening = make(chan struct{})
	default: // it never opened: who waits goes on waiting
	}
}

// noteProgress skips progress that was reported already.
func (p *Process) noteProgress(step control.Progress) {
	p.mu.Lock()
	news := p.state.Bootstrap != step
	p.state.Bootstrap = step
	p.mu.Unlock()
	if !news {
		return
	}
	p.cfg.Log.Debug("tor's bootstrap", "percent", step.Percent, "summary", step.Summary, "warning", step.Warning)
	if p.cfg.OnBootstrap != nil {
		p.cfg.OnBootstrap(step)
	}
}
