package process

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"onionbalancer/internal/tor/control"
)

// supervise keeps a tor running until ctx ends. first is told once: nil when
// the first tor answers, or why it does not; after an error it gives up.
func (p *Process) supervise(ctx context.Context, first chan<- error) {
	defer close(p.ended)
	pause := p.cfg.times.minBackoff
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
			pause = p.cfg.times.minBackoff
		}
		wait := pause/2 + rand.N(pause/2+1)
		p.cfg.Log.Warn("our tor ended, starting it again", "error", err, "pause", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, p.cfg.times.maxBackoff)
		p.mu.Lock()
		p.state.Restarts++
		p.mu.Unlock()
	}
}

// live runs one tor to its end and says how it ended. ready is called when it
// answers on its control port.
func (p *Process) live(ctx context.Context, ready func()) error {
	child, err := launch(p.cfg, p.files)
	if err == nil {
		p.noteStart(child.pid)
		err = p.watch(ctx, child, ready)
	}
	p.noteEnd(err)
	return err
}

// watch stays with a started tor until it has ended.
func (p *Process) watch(ctx context.Context, child *child, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-child.opened:
		p.noteOpen()
	case <-child.exited:
		return child.err()
	case <-ctx.Done():
		child.stop(p.cfg.times.stop)
		return ctx.Err()
	case <-time.After(p.cfg.times.start):
		child.stop(0)
		return fmt.Errorf("it did not open its control port within %v", p.cfg.times.start)
	}
	var lost error
	owned := make(chan struct{})
	go func() { defer close(owned); lost = p.own(ctx, ready) }()
	select {
	case <-child.exited:
	case <-owned:
		// A tor that lost its owner ends by itself, unless it hangs.
		if ctx.Err() == nil {
			child.await(p.cfg.times.stop)
		}
	}
	crashed := child.crashed()
	child.stop(p.cfg.times.stop)
	cancel()
	<-owned
	if lost != nil && !crashed {
		return lost
	}
	return child.err()
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
	ran := make(chan struct{})
	go func() { defer close(ran); _ = client.Run(run) }()
	defer func() { cancel(); <-ran }()

	start, cancelStart := context.WithTimeout(run, p.cfg.times.start)
	defer cancelStart()
	if err := client.Ready(start); err != nil {
		return err
	}
	p.noteVersion(client.State().TorVersion)
	ready()
	followed := make(chan struct{})
	go func() { defer close(followed); p.follow(run, client) }()
	err := client.Lost(run)
	if err == nil {
		err = fmt.Errorf("its control connection was lost: %s", client.State().LastError)
	}
	cancel()
	<-followed
	return err
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
