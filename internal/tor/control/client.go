// Package control is a client of tor's control port (control-spec).
//
// A [Client] holds two authenticated connections to one tor. Commands go over
// the first, one at a time, each with a deadline. Events come over the second,
// whose reader never blocks on a receiver, so neither waits for the other. When
// either connection is lost, the client closes both, fails all pending calls with
// [ErrNotConnected], connects again with a growing backoff, and asks for its events
// again.
//
// A program that binds the control port while tor is down would be taken for tor
// unless it had to prove a secret of tor's. So the client proves that it knows
// the cookie and never sends it (SAFECOOKIE), accepts a control port without
// authentication only on a unix socket in a place that only tor can write to, and does
// not simply read a file that the other side names.
//
// Reconnects, deadlines and backoff use timers only, so a client whose
// Config.Dial returns the end of a net.Pipe runs in virtual time inside a
// testing/synctest bubble.
package control

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"onionbalancer/internal/backoff"
)

// The defaults of Config.
const (
	DefaultDialTimeout    = 20 * time.Second
	DefaultCommandTimeout = 60 * time.Second
	DefaultHeartbeat      = 60 * time.Second
	DefaultMinBackoff     = 50 * time.Millisecond
	DefaultMaxBackoff     = 15 * time.Second
	DefaultMaxReply       = 256 << 20 // 256 MiB
)

// Config says how to reach a tor, and its timeouts. Only Dial is
// required.
type Config struct {
	// Dial opens one connection to the control port; see DialTarget. It is
	// called twice for each connection of the Client, and should return when
	// its context ends.
	Dial func(ctx context.Context) (net.Conn, error)

	// CookieFile is read instead of the cookie file that tor names, which is
	// trusted only if it belongs to root, to our own user, or to the user whom
	// the place of the unix socket belongs to.
	CookieFile string
	// PasswordFile holds the control password in its first line. It is used
	// when tor accepts passwords, before a cookie unless CookieFile is
	// set too.
	PasswordFile string
	// Remote allows a control port on another machine. Without it a connection
	// to a non-loopback address is closed before anything is sent.
	Remote bool

	// TakeOwnership binds tor's life to the command connection
	// (TAKEOWNERSHIP): tor ends when that connection does, for any
	// reason. Only for a tor that we started.
	TakeOwnership bool

	// Log discards by default. Onion addresses are logged shortened.
	Log *slog.Logger

	// DialTimeout bounds dialling and authentication, each connection by
	// itself.
	DialTimeout time.Duration
	// CommandTimeout bounds one command and its whole reply. A command that
	// takes longer ends the connection.
	CommandTimeout time.Duration
	// Heartbeat is how often the event connection is tested, so that one which
	// died silently is noticed within Heartbeat plus CommandTimeout.
	Heartbeat time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts to connect, see
	// internal/backoff.
	MinBackoff, MaxBackoff time.Duration
	// MaxReply is the largest reply to GetInfo, in bytes.
	MaxReply int64
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDialTimeout)
	c.CommandTimeout = cmp.Or(c.CommandTimeout, DefaultCommandTimeout)
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultHeartbeat)
	c.MinBackoff = cmp.Or(c.MinBackoff, DefaultMinBackoff)
	c.MaxBackoff = max(cmp.Or(c.MaxBackoff, DefaultMaxBackoff), c.MinBackoff)
	c.MaxReply = cmp.Or(c.MaxReply, DefaultMaxReply)
	return c
}

// Client talks to one tor. Its methods may be called concurrently, before and
// after Run too: without a connection they return ErrNotConnected at once.
type Client struct {
	cfg Config

	mu       sync.Mutex
	session  *session      // nil while there is no connection
	ready    chan struct{} // closed while there is one
	state    State
	failure  error         // of the last connection or attempt; its text is State's LastError
	skew     time.Duration // how far tor last found the clock ahead, in this connection
	watchers readers[struct{}]
	progress readers[Progress]
	sizes    map[string]int // of documents, by key
}

// New returns a client that does nothing until Run. It panics without a
// cfg.Dial.
func New(cfg Config) *Client {
	if cfg.Dial == nil {
		panic("control: Config.Dial is nil")
	}
	return &Client{
		cfg:      cfg.withDefaults(),
		ready:    make(chan struct{}),
		watchers: make(readers[struct{}]),
		progress: make(readers[Progress]),
		sizes:    make(map[string]int),
	}
}

// State is the state of the connection for an operator.
type State struct {
	Connected  bool
	Since      time.Time // when Connected took its value; zero before Run
	LastError  string    // why the last connection or attempt failed; kept after a reconnect
	TorVersion string    // as "0.4.9.11", of the last connection
	Connects   int       // connections made so far
}

// State returns the connection's state now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	if c.failure != nil {
		s.LastError = c.failure.Error()
	}
	return s
}

// Failure returns why the last connection or attempt failed, nil if none did. It
// is kept after a reconnect.
func (c *Client) Failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// Ready waits until there is a connection, or ctx ends. The error then has
// the cause of the last failed attempt.
func (c *Client) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		ready, connected := c.ready, c.session != nil
		c.mu.Unlock()
		if connected {
			return nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return notReady(ctx.Err(), c.Failure())
		}
	}
}

// Lost waits until there is no connection, or ctx ends, whose error it then
// returns. Without a connection it returns at once.
func (c *Client) Lost(ctx context.Context) error {
	s, err := c.current()
	if err != nil {
		return nil
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settled is how long a connection must last before the backoff between
// attempts is reset.
const settled = 10 * time.Second

// Run connects, and connects again whenever the connection is lost, until ctx
// ends; it then returns ctx's error, with both connections closed and nothing
// left running. It must be called once.
func (c *Client) Run(ctx context.Context) error {
	retry := backoff.Backoff{Policy: backoff.Policy{Min: c.cfg.MinBackoff, Max: c.cfg.MaxBackoff}}
	complaint := ""
	for ctx.Err() == nil {
		began := time.Now()
		err := c.runSession(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) >= settled {
			retry.Reset()
			complaint = ""
		}
		complaint = c.noteFailure(err, complaint)
		backoff.Sleep(ctx, retry.Next())
	}
	return ctx.Err()
}

// runSession makes one session and runs it until it ends.
func (c *Client) runSession(ctx context.Context) error {
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
	c.state = State{Connected: true, Since: time.Now(), TorVersion: s.version, Connects: c.state.Connects + 1}
	tell(c.watchers, struct{}{}) // with the session, so that a Watch of now is not woken twice
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

// noteFailure records the reason of a failed attempt or a lost connection. It is
// logged at a higher level the first time, and when the reason changes.
func (c *Client) noteFailure(err error, before string) string {
	text := err.Error()
	level := slog.LevelDebug
	if text != before {
		level = slog.LevelWarn
	}
	c.cfg.Log.Log(context.Background(), level, "no connection to tor, retrying", "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
	return text
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

// do carries out one command on the current connection.
func (c *Client) do(ctx context.Context, exec func(l *controlConn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := c.current()
	if err != nil {
		return err
	}
	return s.do(ctx, exec)
}
