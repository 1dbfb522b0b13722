package tor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
)

// Config lists the tors of a pool.
type Config struct {
	// Control lists tors that run already. None: start tors of our own.
	Control []Control
	// Own says how to start tors of our own.
	Own Own
	// Log discards by default.
	Log *slog.Logger
}

// Control says how to connect to a running tor.
type Control struct {
	Target       string // "unix:/path" or "host:port"
	CookieFile   string // default: where tor says
	PasswordFile string // default: authenticate by cookie
	Remote       bool   // Target may be on another machine
}

// Own says how to start tors of our own.
type Own struct {
	Dir    string // of all of them: the first lives in Dir/tor, the second in Dir/tor-2
	Count  int    // 1 when 0
	Binary string // "tor" when empty
	Torrc  string // a file of torrc lines for each of them; "" for none
}

// ownName is the name and the directory of the nth tor of our own, from 1.
func ownName(n int) string {
	if n == 1 {
		return "tor"
	}
	return fmt.Sprintf("tor-%d", n)
}

func (o Own) dir(n int) string { return filepath.Join(o.Dir, ownName(n)) }

// Open prepares the connections to the tors of cfg, and starts our own. They
// are closed by Close. Nothing is connected before Run. When one of our own does
// not start, the error says why, and all are stopped.
func Open(ctx context.Context, cfg Config) (*Pool, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var tors []*Tor
	for _, c := range cfg.Control {
		tors = append(tors, connectTo(c, cfg.logOf(c.Target, len(cfg.Control))))
	}
	if len(tors) == 0 {
		var err error
		if tors, err = startAll(ctx, cfg); err != nil {
			return nil, err
		}
	}
	return NewPool(tors...), nil
}

// logOf is the log of one tor among count.
func (c Config) logOf(name string, count int) *slog.Logger {
	if count < 2 {
		return c.Log
	}
	return c.Log.With("tor", name)
}

func connectTo(c Control, log *slog.Logger) *Tor {
	return New(c.Target, control.New(control.Config{
		Dial:         control.DialTarget(c.Target),
		CookieFile:   c.CookieFile,
		PasswordFile: c.PasswordFile,
		Remote:       c.Remote,
		Log:          log,
	}))
}

// startAll starts all tors of our own, or none.
func startAll(ctx context.Context, cfg Config) ([]*Tor, error) {
	var lines []string
	if cfg.Own.Torrc != "" {
		var err error
		if lines, err = process.ReadLines(cfg.Own.Torrc); err != nil {
			return nil, err
		}
	}
	count := max(cfg.Own.Count, 1)
	tors := make([]*Tor, count)
	group, ctx := errgroup.WithContext(ctx)
	for i := range tors {
		group.Go(func() (err error) {
			tors[i], err = start(ctx, cfg.Own, i+1, lines, cfg.logOf(ownName(i+1), count))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		for _, t := range tors {
			if t != nil {
				t.close()
			}
		}
		return nil, err
	}
	return tors, nil
}

// start starts the nth tor of our own.
func start(ctx context.Context, own Own, n int, lines []string, log *slog.Logger) (*Tor, error) {
	p, err := process.Start(ctx, process.Config{
		Dir:        own.dir(n),
		Binary:     own.Binary,
		ExtraLines: lines,
		Log:        log,
		OnBootstrap: func(p control.Progress) {
			log.Info("tor is starting", "percent", p.Percent, "summary", p.Summary)
		},
	})
	if err != nil {
		return nil, err
	}
	t := New(ownName(n), control.New(p.ControlConfig()))
	t.own, t.target = p, "balancer's own tor"
	if n > 1 {
		t.target = fmt.Sprintf("balancer's own tor %d", n)
	}
	return t, nil
}

// Borrow is Open for a single command. Where tors of our own are asked for, it
// uses one that another process started from the same configuration, or starts
// just one. For root it starts one in a temporary directory: files that root
// leaves in the real one could not be used by the daemon's user.
func Borrow(ctx context.Context, cfg Config) (*Pool, error) {
	if len(cfg.Control) > 0 {
		return Open(ctx, cfg)
	}
	for n := range max(cfg.Own.Count, 1) {
		if running, socket, ok := process.Running(ctx, cfg.Own.dir(n+1)); ok {
			running.Log = cfg.Log
			return NewPool(New("unix:"+socket, control.New(running))), nil
		}
	}
	cfg.Own.Count = 1
	if os.Geteuid() != 0 {
		return Open(ctx, cfg)
	}
	dir, err := os.MkdirTemp("", "balancer-state-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for a tor: %w", err)
	}
	cfg.Own.Dir = dir
	p, err := Open(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p.temporary = dir
	return p, nil
}
