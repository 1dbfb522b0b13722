package socket

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxConns is how many connections are open at a time.
const maxConns = 256

// How long a connection may keep its place while others wait for one: a client's to send
// its request or to read the answer, and ours to make the answer, after which clients have
// given up. One without a request has no claim.
const (
	clientPatience = 2 * time.Second
	answerPatience = 10 * time.Second
)

// phase is what a connection is doing.
type phase int

const (
	reading   phase = iota // the client is to send a request
	answering              // we are to answer it
	writing                // the client is to read the answer
	idle                   // kept alive, without a request
)

// limiter is a listener that has at most maxConns connections open, so that the daemon
// keeps its file descriptors and answers real requests, however many clients connect and
// then send or read nothing. Further clients wait in the kernel's queue, until a connection
// has ended or has lost its claim to a place.
type limiter struct {
	net.Listener
	patience time.Duration // with clients
	closed   func()
	done     <-chan struct{} // of closed

	mu    sync.Mutex
	open  []*conn       // the oldest first
	freed chan struct{} // signals that there may be a place
}

func newLimiter(l net.Listener, patience time.Duration) *limiter {
	ctx, cancel := context.WithCancel(context.Background())
	return &limiter{Listener: l, patience: patience, closed: cancel, done: ctx.Done(), freed: make(chan struct{}, 1)}
}

// conn is a connection with what it is doing, which limiter.mu guards.
type conn struct {
	net.Conn
	limit *limiter
	phase phase
	since time.Time
}

func (l *limiter) Close() error {
	l.closed()
	return l.Listener.Close()
}

func (l *limiter) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, limit: l, since: time.Now()}
	for !l.admit(c) {
		select {
		case <-l.freed:
		case <-time.After(l.patience / 8):
		case <-l.done:
			accepted.Close()
			return nil, net.ErrClosed
		}
	}
	return c, nil
}

// admit gives c a place, if need be one that another connection has lost its claim to.
func (l *limiter) admit(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= maxConns {
		n := l.unclaimedLocked()
		if n < 0 {
			return false
		}
		l.open[n].Conn.Close()
		l.open = slices.Delete(l.open, n, n+1)
	}
	l.open = append(l.open, c)
	return true
}

// unclaimedLocked returns the connection to end for another one: one that is idle, else
// the one that has been slow for longest. -1: none.
func (l *limiter) unclaimedLocked() int {
	slow, until := -1, time.Now()
	for n, c := range l.open {
		patience := l.patience
		switch c.phase {
		case idle:
			return n
		case answering:
			patience = answerPatience
		}
		if end := c.since.Add(patience); end.Before(until) {
			slow, until = n, end
		}
	}
	return slow
}

// connState is for http.Server.
func (l *limiter) connState(accepted net.Conn, state http.ConnState) {
	c := accepted.(*conn)
	switch state {
	case http.StateActive:
		c.enter(reading)
	case http.StateIdle:
		c.enter(idle)
	case http.StateClosed:
		l.mu.Lock()
		l.open = slices.DeleteFunc(l.open, func(other *conn) bool { return other == c })
		l.mu.Unlock()
		l.free()
	}
}

// free wakes who waits for a place.
func (l *limiter) free() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

// endIdle closes the connections that have no request in flight.
func (l *limiter) endIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		if c.phase == reading || c.phase == idle {
			c.Conn.Close()
		}
	}
}

// enter notes what the connection does from now on, and returns what it did before.
func (c *conn) enter(p phase) (before phase) {
	c.limit.mu.Lock()
	before, c.phase, c.since = c.phase, p, time.Now()
	c.limit.mu.Unlock()
	if p == idle {
		c.limit.free()
	}
	return before
}

func (c *conn) Write(p []byte) (int, error) {
	defer c.enter(c.enter(writing))
	return c.Conn.Write(p)
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// handler is h that notes when requests are being answered.
func (l *limiter) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		c.enter(answering)
		defer c.enter(writing)
		h.ServeHTTP(w, r)
	})
}
