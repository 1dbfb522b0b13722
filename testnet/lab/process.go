package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"onionbalancer/internal/child"
	"onionbalancer/internal/status"
)

// Process is a balancer in a process of its own, which does not outlive us.
type Process struct {
	Log     string // a file
	Started time.Time

	killed atomic.Bool // by Kill
	cmd    *exec.Cmd
	exited chan struct{} // closed once it is gone
	err    error         // how it ended; read after exited is closed
}

// Run starts cmd with its output appended to a file.
func Run(cmd *exec.Cmd, log string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting the balancer: %w", err)
	}
	defer file.Close()
	p := &Process{Log: log, Started: time.Now(), cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = file, file
	err = child.Start(cmd, syscall.SIGTERM, func(status error) {
		p.err = status
		close(p.exited)
	})
	if err != nil {
		return nil, fmt.Errorf("starting the balancer: %w", err)
	}
	return p, nil
}

// PID is the process number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Reload has the balancer read its configuration again.
func (p *Process) Reload() error { return p.cmd.Process.Signal(syscall.SIGHUP) }

// Kill ends the process as a machine that fails does, and waits.
func (p *Process) Kill() error {
	p.killed.Store(true)
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing the balancer: %w", err)
	}
	<-p.exited
	return nil
}

// WhileRunning is a context that ends, with a cause, when the process does, unless by Kill.
func (p *Process) WhileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.exited:
			if p.killed.Load() {
				return
			}
			said, _ := os.ReadFile(p.Log)
			cancel(fmt.Errorf("the balancer ended (%v):\n%s", p.err, said[max(0, len(said)-2000):]))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// Stop ends the process as an operator would, and waits. It can be called again.
func (p *Process) Stop() error {
	select {
	case <-p.exited:
		return nil // WhileRunning has said so
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("ending the balancer: it did not leave 10 s after SIGTERM; see %s", p.Log)
	}
	if p.err != nil {
		return fmt.Errorf("ending the balancer: %w; see %s", p.err, p.Log)
	}
	return nil
}

// Await asks for the status of a balancer with one service, at its socket, until
// the service is as wanted.
func Await(ctx context.Context, socket string, wanted func(status.Service) bool) (status.Service, error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last status.Service
	for {
		snapshot, err := status.Query(ctx, socket)
		if err == nil && len(snapshot.Services) == 1 {
			if last = snapshot.Services[0]; wanted(last) {
				return last, nil
			}
		}
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Published reports whether all is well and all HSDirs have confirmed the
// descriptor that clients fetch.
func Published(s status.Service) bool { return s.State == status.StateOK && Confirmed(s) }

// Confirmed reports whether all HSDirs have confirmed the descriptor that clients fetch.
func Confirmed(s status.Service) bool {
	current := slices.IndexFunc(s.Descriptors, func(d status.Descriptor) bool { return d.Current })
	return current >= 0 && s.Descriptors[current].Confirmed >= len(s.Descriptors[current].Slots)
}
