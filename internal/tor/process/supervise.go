package process

import (
	"context"
	"fmt"
	"sync"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/tor/control"
)

// supervise keeps a tor running until ctx ends. first is called once: with nil when
// the first tor answers, or with its error; after an error it returns.
func (p *Process) supervise(ctx context.Context, first chan<- error) {
	defer close(p.ended)
	retry := backoff.Backoff{Policy: backoff.Policy{Min: p.cfg.times.minBackoff, Max: p.cfg.times.maxBackoff}}
	ready := func() {
		if first != nil {
			first <- nil
			first = nil
		}
	}
	for ctx.Err() == nil {
		began := time.Now()
		err := p.live(ctx, ready)
		if ctx.Err() != nil {
			return
		}
		if first != nil {
			first <- err
			return
		}
		if time.Since(began) >= p.cfg.times.settled {
			retry.Reset()
		}
		wait := retry.Next()
		p.cfg.Log.Warn("our tor ended, restarting it", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		p.note(func(s *State) { s.Restarts++ })
	}
}

// live runs one tor until it ends and returns how it ended. ready is called when it
// answers on its control port.
func (p *Process) live(ctx context.Context, ready func()) error {
	tor, err := launch(p.cfg, p.files)
	if err == nil {
		p.note(func(s *State) { s.PID = tor.pid })
		err = p.watch(ctx, tor, ready)
	}
	p.noteEnd(err)
	return err
}

// watch waits for a started tor until it has ended.
func (p *Process) watch(ctx context.Context, tor *torProcess, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-tor.opened:
		p.noteOpen()
	case <-tor.exited:
		return tor.err()
	case <-ctx.Done():
		tor.stop(p.cfg.times.stop)
		return ctx.Err()
	case <-time.After(p.cfg.times.start):
		tor.stop(0)
		return fmt.Errorf("it did not open its control port within %v", p.cfg.times.start)
	}
	var lost error
	owned := make(chan struct{})
	go func() { defer close(owned); lost = p.own(ctx, ready) }()
	select {
	case <-tor.exited:
	case <-owned:
		// A tor that has lost its owner ends by itself, unless it hangs.
		if ctx.Err() == nil {
			tor.await(p.cfg.times.stop)
		}
	}
	crashed := tor.crashed()
	tor.stop(p.cfg.times.stop)
	cancel()
	<-owned
	if lost != nil && !crashed {
		return lost
	}
	return tor.err()
}

// own binds tor to a control connection of ours and follows its bootstrap. It
// returns when that connection is lost, a tor that stops answering being lost
// too, or ctx ended.
func (p *Process) own(ctx context.Context, ready func()) error {
	cfg := p.ControlConfig()
	cfg.TakeOwnership = true
	cfg.Heartbeat, cfg.CommandTimeout = p.cfg.times.heartbeat, p.cfg.times.command
	cfg.Log = nil // the supervisor tells what there is to tell
	client := control.New(cfg)
	run, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { _ = client.Run(run) })

	start, cancelStart := context.WithTimeout(run, p.cfg.times.start)
	defer cancelStart()
	if err := client.Ready(start); err != nil {
		return err
	}
	ready()
	group.Go(func() { p.follow(run, client) })
	if err := client.Lost(run); err != nil {
		return err
	}
	return fmt.Errorf("its control connection was lost: %s", client.State().LastError)
}

// follow reports tor's bootstrap.
func (p *Process) follow(ctx context.Context, client *control.Client) {
	steps := client.WatchBootstrap(ctx)
	if now, err := client.Bootstrap(ctx); err == nil {
		p.noteProgress(now)
	}
	for {
		select {
		case step := <-steps:
			p.noteProgress(step)
		case <-ctx.Done():
			return
		}
	}
}
