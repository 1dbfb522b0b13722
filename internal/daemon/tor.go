package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"onionbalancer/internal/config"
	"onionbalancer/internal/control"
	"onionbalancer/internal/status"
	"onionbalancer/internal/torprocess"
)

// ownTorDir is the directory of a tor of our own, inside state_dir.
const ownTorDir = "tor"

// connectPatience is how long a command waits for tor to answer at all.
const connectPatience = 10 * time.Second

// link is the connection to a tor: one that runs by itself, or one of our own.
type link struct {
	client *control.Client
	target string
	own    *torprocess.Process // nil unless we started it
}

// openTor prepares the connection that cfg asks for. Without a control port in
// cfg it starts a tor, which close ends.
func openTor(ctx context.Context, cfg *config.Config, log *slog.Logger) (*link, error) {
	if !cfg.Tor.Own() {
		client := control.New(control.Config{
			Dial:         control.DialTarget(cfg.Tor.Control),
			CookieFile:   cfg.Tor.CookieFile,
			PasswordFile: cfg.Tor.PasswordFile,
			Log:          log,
		})
		return &link{client: client, target: cfg.Tor.Control}, nil
	}
	lines, err := extraLines(cfg.Tor.Torrc)
	if err != nil {
		return nil, err
	}
	process, err := torprocess.Start(ctx, torprocess.Config{
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
	return torprocess.ReadLines(path)
}

// startTor opens a tor for one command and runs the connection. stop ends both.
// If the daemon of cfg runs, with a tor of its own, the command uses that one.
func startTor(ctx context.Context, cfg *config.Config, log *slog.Logger) (conn *link, stop func(), err error) {
	if cfg.Tor.Own() {
		asking, cancel := context.WithTimeout(ctx, connectPatience)
		running, err := status.Query(asking, filepath.Join(cfg.StateDir, status.SocketName))
		cancel()
		if err == nil && running.Tor.Socket != "" {
			other := *cfg
			other.Tor.Control = running.Tor.Socket
			cfg = &other
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	if conn, err = openTor(ctx, cfg, log); err != nil {
		cancel()
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.run(ctx)
	}()
	return conn, func() { cancel(); <-done; conn.close() }, nil
}

// run keeps the connection until ctx ends.
func (l *link) run(ctx context.Context) {
	// It returns for no other reason than that ctx ended.
	_ = l.client.Run(ctx)
}

// ready waits for tor to answer.
func (l *link) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	return l.client.Ready(ctx)
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
