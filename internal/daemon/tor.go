package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
)

// ownTorDir is the directory of a tor of our own, inside state_dir.
const ownTorDir = "tor"

// How long a command waits for tor to answer at all, and in spite of a failure:
// tor may be just starting.
const (
	connectPatience = 10 * time.Second
	failurePatience = 2 * time.Second
)

// link is the connection to a tor: one that runs by itself, or one of our own.
type link struct {
	client *control.Client
	target string
	own    *process.Process // nil unless we started it
}

// openTor prepares the connection that cfg asks for. Without a control port in
// cfg it starts a tor, which close ends.
func openTor(ctx context.Context, cfg *config.Config, log *slog.Logger) (*link, error) {
	cfg, err := withSecrets(cfg)
	if err != nil {
		return nil, err
	}
	if !cfg.Tor.Own() {
		client := control.New(control.Config{
			Dial:         control.DialTarget(cfg.Tor.Control),
			CookieFile:   cfg.Tor.CookieFile,
			PasswordFile: cfg.Tor.PasswordFile,
			Remote:       cfg.Tor.ControlRemote,
			Log:          log,
		})
		return &link{client: client, target: cfg.Tor.Control}, nil
	}
	lines, err := extraLines(cfg.Tor.Torrc)
	if err != nil {
		return nil, err
	}
	process, err := process.Start(ctx, process.Config{
		Dir:        filepath.Join(cfg.StateDir, ownTorDir),
		Binary:     cfg.Tor.Binary,
		ExtraLines: lines,
		Log:        log,
		OnBootstrap: func(p control.Progress) {
			log.Info("tor is starting", "percent", p.Percent, "summary", p.Summary)
		},
	})
	if err != nil {
		return nil, err
	}
	return &link{client: control.New(process.ControlConfig()), target: "balancer's own tor", own: process}, nil
}

// extraLines reads the operator's torrc lines.
func extraLines(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	return process.ReadLines(path)
}

// startTor opens a tor for one command and runs the connection. stop ends both.
// If the daemon of cfg runs, with a tor of its own, the command uses that one.
func startTor(ctx context.Context, cfg *config.Config, log *slog.Logger) (conn *link, stop func(), err error) {
	cleanUp := func() {}
	running, socket, ok := control.Config{}, "", false
	if cfg.Tor.Own() {
		running, socket, ok = process.Running(ctx, filepath.Join(cfg.StateDir, ownTorDir))
	}
	if cfg.Tor.Own() && !ok && os.Geteuid() == 0 {
		if cfg, cleanUp, err = elsewhere(cfg); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	if ok {
		running.Log = log
		conn = &link{client: control.New(running), target: "unix:" + socket}
	} else if conn, err = openTor(ctx, cfg, log); err != nil {
		cancel()
		cleanUp()
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.run(ctx)
	}()
	return conn, func() { cancel(); <-done; conn.close(); cleanUp() }, nil
}

// elsewhere is cfg with a state directory that goes again. Root's commands use
// it: what root left in the real one, the user that the daemon runs as could not
// use.
func elsewhere(cfg *config.Config) (*config.Config, func(), error) {
	dir, err := os.MkdirTemp("", "balancer-state-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a directory for a tor: %w", err)
	}
	other := *cfg
	other.StateDir = dir
	return &other, func() { _ = os.RemoveAll(dir) }, nil
}

// run keeps the connection until ctx ends.
func (l *link) run(ctx context.Context) {
	// It returns for no other reason than that ctx ended.
	_ = l.client.Run(ctx)
}

// ready waits for tor to answer. The error is that of the last attempt.
func (l *link) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	began := time.Now()
	for {
		step, cancel := context.WithTimeout(ctx, failurePatience/4)
		err := l.client.Ready(step)
		cancel()
		failure := l.client.Failure()
		switch {
		case err == nil:
			return nil
		case failure != nil && time.Since(began) >= failurePatience:
			return failure
		case ctx.Err() != nil:
			return err
		}
	}
}

// close ends a tor of our own.
func (l *link) close() {
	if l.own != nil {
		l.own.Stop()
	}
}

// status describes the connection.
func (l *link) status() status.Tor {
	s := l.client.State()
	out := status.Tor{Control: l.target, Connected: s.Connected, Since: s.Since, Version: s.TorVersion}
	if !s.Connected {
		out.Error = s.LastError
	}
	if l.own != nil {
		p := l.own.State()
		out.Own, out.Bootstrap, out.Restarts = true, p.Bootstrap.Percent, p.Restarts
		out.Socket = "unix:" + l.own.Socket()
	}
	return out
}
