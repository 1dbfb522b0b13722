package control

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"
)

// What Config's zero values stand for.
const (
	DefaultDialTimeout    = 20 * time.Second
	DefaultCommandTimeout = 60 * time.Second
	DefaultHeartbeat      = 60 * time.Second
	DefaultMinBackoff     = 50 * time.Millisecond
	DefaultMaxBackoff     = 15 * time.Second
	DefaultMaxReply       = 256 << 20 // 256 MiB
)

// Config says how to reach a tor and how patient to be with it. Only Dial is
// required.
type Config struct {
	// Dial opens one connection to the control port; see DialTarget. It is
	// called twice for each connection of the Client, and should return when
	// its context ends.
	Dial func(ctx context.Context) (net.Conn, error)

	// CookieFile is read instead of the cookie file that tor names, which is
	// believed only if it belongs to root, to our own user, or to the user whom
	// the place of the unix socket belongs to.
	CookieFile string
	// PasswordFile holds the control password in its first line. It is used
	// when tor takes passwords, and goes before a cookie unless CookieFile is
	// set too.
	PasswordFile string
	// Remote allows a control port on another machine. Without it a connection
	// to what is no loopback address is closed before anything is said.
	Remote bool

	// TakeOwnership binds tor's life to the command connection
	// (TAKEOWNERSHIP): tor ends when that connection does, whatever the
	// reason. Only for a tor that we started.
	TakeOwnership bool

	// Log defaults to no log at all. Onion addresses are logged shortened.
	Log *slog.Logger

	// DialTimeout bounds dialling and authentication, each connection by
	// itself.
	DialTimeout time.Duration
	// CommandTimeout bounds one command and its whole reply. A command that
	// takes longer ends the connection.
	CommandTimeout time.Duration
	// Heartbeat is how often the event connection is tried, so that one which
	// died in silence is noticed within Heartbeat plus CommandTimeout.
	Heartbeat time.Duration
	// MinBackoff and MaxBackoff bound the pause between attempts to connect.
	// It doubles from the one to the other, and half of it is random.
	MinBackoff, MaxBackoff time.Duration
	// MaxReply is the largest reply to GetInfo, in bytes.
	MaxReply int64
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.CommandTimeout <= 0 {
		c.CommandTimeout = DefaultCommandTimeout
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.MinBackoff <= 0 {
		c.MinBackoff = DefaultMinBackoff
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = DefaultMaxBackoff
	}
	c.MaxBackoff = max(c.MaxBackoff, c.MinBackoff)
	if c.MaxReply <= 0 {
		c.MaxReply = DefaultMaxReply
	}
	return c
}

// Client talks to one tor. Its methods may be called concurrently, before and
// after Run too: without a connection they return ErrNotConnected at once.
type Client struct {
	cfg   Config
	pairs pairLocks

	mu       sync.Mutex
	session  *session      // nil while there is no connection
	ready    chan struct{} // closed while there is one
	state    State
	failure  error         // of the last connection or attempt; its text is State's LastError
	skew     time.Duration // how far tor last found the clock ahead, in this connection
	watchers map[chan struct{}]struct{}
	progress map[chan Progress]struct{}
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
		watchers: make(map[chan struct{}]struct{}),
		progress: make(map[chan Progress]struct{}),
		sizes:    make(map[string]int),
	}
}

// State is what an operator wants to know of the connection.
type State struct {
	Connected  bool      `json:"connected"`
	Since      time.Time `json:"since"`       // when Connected took its value; zero before Run
	LastError  string    `json:"last_error"`  // why the last connection or attempt failed; kept after a reconnect
	TorVersion string    `json:"tor_version"` // as "0.4.9.11", of the last connection
	Connects   int       `json:"connects"`    // connections made so far
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

// Ready waits until there is a connection, or ctx ends. The error then names
// what stood in the way of the last attempt.
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
