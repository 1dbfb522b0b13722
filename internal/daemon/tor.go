package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
)

// openTors prepares the connections that cfg asks for, and starts tors of our
// own where it names none.
func openTors(ctx context.Context, cfg *config.Config, log *slog.Logger) (*tor.Pool, error) {
	c, err := torConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	return tor.Open(ctx, c)
}

// borrowTors opens the tors of cfg for one command and runs the connections.
// stop ends both.
func borrowTors(ctx context.Context, cfg *config.Config, log *slog.Logger) (tors *tor.Pool, stop func(), err error) {
	c, err := torConfig(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	if tors, err = tor.Borrow(ctx, c); err != nil {
		return nil, nil, err
	}
	end := background(ctx, func(ctx context.Context) { tors.Run(ctx, func(event.Event) {}) })
	return tors, func() { end(); tors.Close() }, nil
}

// background calls run in a goroutine. stop ends its context and waits for it.
func background(ctx context.Context, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { run(ctx) })
	return func() { cancel(); wait.Wait() }
}

func torConfig(cfg *config.Config, log *slog.Logger) (tor.Config, error) {
	password, err := openfile.Resolve(cfg.Tor.PasswordFile)
	if err != nil {
		return tor.Config{}, fmt.Errorf("opening password_file: %w", err)
	}
	out := tor.Config{Own: tor.Own{Dir: cfg.StateDir, Count: max(1, cfg.Tor.Count), Binary: cfg.Tor.Binary, Torrc: cfg.Tor.Torrc}, Log: log}
	for _, target := range cfg.Tor.Controls {
		out.Control = append(out.Control, tor.Control{
			Target: target, CookieFile: cfg.Tor.CookieFile, PasswordFile: password, Remote: cfg.Tor.ControlRemote,
		})
	}
	return out, nil
}

// torStatuses are the tors as the status tells of them.
func torStatuses(tors *tor.Pool) (list []status.Tor) {
	for _, s := range tors.Statuses() {
		list = append(list, status.Tor{
			Name: s.Name, Serving: s.Serving, Own: s.Own, Control: s.Control, Socket: s.Socket, Restarts: s.Restarts, Connected: s.Connected,
			Since: s.Since, Version: s.Version, Bootstrap: s.Bootstrap, Error: s.Error,
		})
	}
	return list
}
