package daemon

import (
	"context"
	"log/slog"

	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
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
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tors.Run(ctx, func(event.Event) {})
	}()
	return tors, func() { cancel(); <-done; tors.Close() }, nil
}

func torConfig(cfg *config.Config, log *slog.Logger) (tor.Config, error) {
	cfg, err := withSecrets(cfg)
	if err != nil {
		return tor.Config{}, err
	}
	out := tor.Config{Own: tor.Own{Dir: cfg.StateDir, Count: max(1, cfg.Tor.Count), Binary: cfg.Tor.Binary, Torrc: cfg.Tor.Torrc}, Log: log}
	for _, target := range cfg.Tor.Controls {
		out.Control = append(out.Control, tor.Control{
			Target:       target,
			CookieFile:   cfg.Tor.CookieFile,
			PasswordFile: cfg.Tor.PasswordFile,
			Remote:       cfg.Tor.ControlRemote,
		})
	}
	return out, nil
}

// torStatuses are the tors as the status tells of them.
func torStatuses(tors *tor.Pool) (list []status.Tor) {
	for _, s := range tors.Statuses() {
		list = append(list, torStatus(s))
	}
	return list
}

func torStatus(s tor.Status) status.Tor {
	return status.Tor{
		Name: s.Name, Serving: s.Serving, Own: s.Own, Control: s.Control, Socket: s.Socket, Restarts: s.Restarts, Connected: s.Connected,
		Since: s.Since, Version: s.Version, Bootstrap: s.Bootstrap, Error: s.Error,
	}
}
