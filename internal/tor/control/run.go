package control

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// settled is how long a connection must hold before the pauses between
// attempts begin small again.
const settled = 10 * time.Second

// Run connects, and connects again whenever the connection is lost, until ctx
// ends; it then returns ctx's error, with both connections closed and nothing
// left running. It must be called once.
func (c *Client) Run(ctx context.Context) error {
	pause, complaint := c.cfg.MinBackoff, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := c.live(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) >= settled {
			pause, complaint = c.cfg.MinBackoff, ""
		}
		complaint = c.noteFailure(err, complaint)
		sleep(ctx, jitter(pause))
		pause = min(2*pause, c.cfg.MaxBackoff)
	}
	return ctx.Err()
}

// live makes one session and stays with it to its end.
func (c *Client) live(ctx context.Context) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	c.attach(s)
	return s.run(ctx)
}

func (c *Client) attach(s *session) {
	c.mu.Lock()
	c.session = s
	close(c.ready)
	c.state.Connected, c.state.Since = true, time.Now()
	c.state.TorVersion = s.version
	c.state.Connects++
	c.wakeLocked() // with the session, so that a Watch of now is not woken twice
	c.mu.Unlock()
	c.cfg.Log.Info("connected to tor", "tor_version", s.version)
	if err := CheckVersion(s.version); err != nil {
		c.cfg.Log.Warn("tor may be too old", "error", err)
	}
}

func (c *Client) detach(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	c.ready = make(chan struct{})
	c.state.Connected, c.state.Since = false, time.Now()
	c.failure = s.cause
	c.skew = 0
}

// noteFailure keeps the reason of a failed attempt or a lost connection. It is
// logged aloud the first time, and again when it is another one.
func (c *Client) noteFailure(err error, before string) string {
	text := err.Error()
	level := slog.LevelDebug
	if text != before {
		level = slog.LevelWarn
	}
	c.cfg.Log.Log(context.Background(), level, "no connection to tor, trying again", "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
	return text
}

// jitter spreads a pause over its second half, so that several clients of one
// tor do not come back all at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// current returns the session, or the error of having none.
func (c *Client) current() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil, notConnected(c.failure)
	}
	return c.session, nil
}

// do carries out one command on the connection of now.
func (c *Client) do(ctx context.Context, exec func(l *link) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := c.current()
	if err != nil {
		return err
	}
	return s.do(ctx, exec)
}
