package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"onionbalancer/internal/child"
	"onionbalancer/internal/status"
)

// balancerProcess is a "balancer run" of our own program.
type balancerProcess struct {
	cmd     *exec.Cmd
	log     string // a file
	socket  string // of its status
	started time.Time
	exited  chan struct{} // closed once it is gone
	err     error         // how it ended; read after exited is closed
}

// startBalancer runs a balancer with its output in dir/balancer.log.
func startBalancer(dir, config string) (*balancerProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding our own program: %w", err)
	}
	b := &balancerProcess{
		log:    filepath.Join(dir, "balancer.log"),
		socket: filepath.Join(dir, "state", status.SocketName),
		exited: make(chan struct{}),
	}
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting the balancer: %w", err)
	}
	defer log.Close()
	b.cmd = exec.Command(program, "run", "--config", config)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.started = time.Now()
	err = child.Start(b.cmd, syscall.SIGTERM, func(status error) {
		b.err = status
		close(b.exited)
	})
	if err != nil {
		return nil, fmt.Errorf("starting the balancer: %w", err)
	}
	return b, nil
}

// whileRunning is a context that ends, with a cause, when the balancer does.
func (b *balancerProcess) whileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-b.exited:
			said, _ := os.ReadFile(b.log)
			cancel(fmt.Errorf("the balancer ended (%v):\n%s", b.err, said[max(0, len(said)-2000):]))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// published waits until HSDirs have confirmed the public descriptor wherever
// clients look for it.
func (b *balancerProcess) published(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		snapshot, err := status.Query(ctx, b.socket)
		if err == nil && len(snapshot.Services) == 1 && snapshot.Services[0].State == status.StateOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the balancer to publish: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// stop ends the balancer as an operator would, and waits.
func (b *balancerProcess) stop() error {
	select {
	case <-b.exited:
		return nil // whileRunning has said so
	default:
	}
	b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.exited:
	case <-time.After(10 * time.Second):
		b.cmd.Process.Kill()
		<-b.exited
		return fmt.Errorf("ending the balancer: it did not leave 10 s after SIGTERM; see %s", b.log)
	}
	if b.err != nil {
		return fmt.Errorf("ending the balancer: %w; see %s", b.err, b.log)
	}
	return nil
}
