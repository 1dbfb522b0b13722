package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	maxPlainReply = 1 << 20 // 1 MiB: anything but a document
	maxEvent      = 8 << 20 // 8 MiB: a descriptor is 50,000 bytes unless the consensus raises it
)

// controlConn is one connection to tor. It has one user at a time.
type controlConn struct {
	conn    *cappedConn
	r       *bufio.Reader
	w       *bufio.Writer
	timeout time.Duration // of one command
}

// openConn dials and authenticates within the time for dialling.
func openConn(ctx context.Context, cfg Config) (*controlConn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	conn, err := cfg.Dial(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("dialling tor's control port: %w", explainDial(err))
	}
	if identify(conn).remote && !cfg.Remote {
		conn.Close()
		return nil, "", advise(fmt.Errorf("tor's control port is at %s, which is not on this machine", conn.RemoteAddr()),
			"use a unix socket or 127.0.0.1, or set control_remote = true")
	}
	// The handshake ends with its context, not only with its deadlines.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	l := newConn(conn, cfg.DialTimeout)
	version, err := l.authenticate(cfg)
	if !stop() { // then whatever else is wrong is of our closing
		err = fmt.Errorf("tor did not answer within %v: %w", cfg.DialTimeout, ctx.Err())
	}
	if err != nil {
		l.close()
		return nil, "", fmt.Errorf("authenticating to tor's control port: %w", err)
	}
	l.timeout = cfg.CommandTimeout
	return l, version, nil
}

func newConn(conn net.Conn, timeout time.Duration) *controlConn {
	capped := &cappedConn{Conn: conn}
	return &controlConn{conn: capped, r: bufio.NewReader(capped), w: bufio.NewWriter(capped), timeout: timeout}
}

// close closes the connection without QUIT, which could wait for an answer.
func (l *controlConn) close() { _ = l.conn.Close() }

// send carries out one command with a small reply. Its error is a *ReplyError
// when tor refused; after any other error the connection is unusable.
func (l *controlConn) send(command string) (*reply, error) {
	return l.exchange(command, nil, maxPlainReply, 0)
}

// exchange is send, with a document after the command unless it is nil, and for a
// reply that may have one: limit and expect are as with readReply.
func (l *controlConn) exchange(command string, document []byte, limit int64, expect int) (*reply, error) {
	// The allowance counts the carriage returns and stuffed dots too.
	if err := l.arm(limit + limit/16 + 4096); err != nil {
		return nil, err
	}
	if err := l.write(command, document); err != nil {
		return nil, l.explain(err)
	}
	r, err := readReply(l.r, limit, expect)
	switch {
	case err != nil:
		return nil, l.explain(err)
	case !r.ok():
		return nil, refusal(r.code, r.text())
	}
	return r, nil
}

// write writes a command, with a document after it unless that is nil.
func (l *controlConn) write(command string, document []byte) error {
	_, _ = l.w.WriteString(command + "\r\n")
	if document != nil {
		writeDocument(l.w, document)
	}
	return l.w.Flush() // whose error is also that of what was written before
}

// arm sets the deadline and the allowance of one exchange. Replies are told
// apart only by their order, so unsolicited data ends the connection.
func (l *controlConn) arm(allowance int64) error {
	if n := l.r.Buffered(); n > 0 {
		return fmt.Errorf("tor sent %d bytes without being asked", n)
	}
	l.conn.left = allowance
	return l.conn.SetDeadline(time.Now().Add(l.timeout))
}

// explain rewords errors that a reader of the log would not understand.
func (l *controlConn) explain(err error) error {
	if isTimeout(err) {
		return fmt.Errorf("tor did not answer within %v: %w", l.timeout, err)
	}
	return err
}

// fatal reports whether err ends the connection it happened on.
func fatal(err error) bool {
	var refused *ReplyError
	return err != nil && !errors.As(err, &refused)
}

// oneWord refuses input that would be more than one argument of a command, or begin
// a second command.
func oneWord(what, s string) error {
	if s == "" || strings.ContainsAny(s, " \t\r\n\x00") {
		return fmt.Errorf("%s %q is not one word", what, s)
	}
	return nil
}

// DialTarget returns a function that dials a control port: "unix:" and a path,
// or a host and a port. A malformed target fails at every dial.
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
// which is reset for each reply: textproto reads lines and bodies of any
// length into memory.
type cappedConn struct {
	net.Conn
	left int64 // the allowance: it belongs to who reads
}

func (c *cappedConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("reading a reply: %w", ErrTooLarge)
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// isTimeout reports whether err is a passed deadline.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// explainDial adds to the errors that operators meet how to fix them.
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
