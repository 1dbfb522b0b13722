package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"syscall"
)

// DialTarget returns a function that dials a control port: "unix:" and a path,
// or a host and a port. A malformed target fails at every dial; CheckTarget
// says so beforehand.
func DialTarget(target string) func(ctx context.Context) (net.Conn, error) {
	network, address, err := splitTarget(target)
	return func(ctx context.Context) (net.Conn, error) {
		if err != nil {
			return nil, err
		}
		if network == "unix" {
			return dialSocket(ctx, address)
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
}

// CheckTarget reports whether target is one that DialTarget can dial.
func CheckTarget(target string) error {
	_, _, err := splitTarget(target)
	return err
}

func splitTarget(target string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		if path == "" {
			return "", "", fmt.Errorf("reading control port %q: no path after %q", target, "unix:")
		}
		return "unix", path, nil
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", "", fmt.Errorf("reading control port %q: want unix:PATH or HOST:PORT: %w", target, err)
	}
	if host == "" || port == "" {
		return "", "", fmt.Errorf("reading control port %q: want unix:PATH or HOST:PORT", target)
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

// cappedConn is a connection that refuses to read more than an allowance,
// which is set afresh for each reply: textproto reads lines and bodies of any
// length into memory.
type cappedConn struct {
	net.Conn
	mu   sync.Mutex
	left int64
}

func (c *cappedConn) allow(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = n
}

func (c *cappedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	left := c.left
	c.mu.Unlock()
	if left <= 0 {
		return 0, fmt.Errorf("reading a reply: %w", ErrTooLarge)
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.left -= int64(n)
	c.mu.Unlock()
	return n, err
}

// isTimeout tells a deadline that passed from other errors.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// explainDial adds to the errors that operators meet how to mend them.
func explainDial(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return advise(err, "add balancer's user to the group that may use the socket "+
			"(Debian: adduser USER debian-tor; in torrc: ControlPort unix:PATH GroupWritable)")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return advise(err, "is tor running, with this ControlPort in its torrc?")
	}
	return err
}
