package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	bine "github.com/cretz/bine/control"
)

const (
	maxPlainReply = 1 << 20 // 1 MiB: anything but a document
	maxEvent      = 8 << 20 // 8 MiB: a descriptor is 50,000 bytes unless the consensus raises it
)

// link is one connection to tor. Whoever owns it uses it alone: bine's
// connection deadlocks when shared.
type link struct {
	conn    *cappedConn
	text    *textproto.Conn
	bine    *bine.Conn
	timeout time.Duration // of one command
}

// openLink dials and authenticates within the time for dialling.
func openLink(ctx context.Context, cfg Config) (*link, string, error) {
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
	l := newLink(conn, cfg.DialTimeout)
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

func newLink(conn net.Conn, timeout time.Duration) *link {
	capped := &cappedConn{Conn: conn}
	text := textproto.NewConn(capped)
	return &link{conn: capped, text: text, bine: bine.NewConn(text), timeout: timeout}
}

// close closes the connection without QUIT, which could wait for an answer.
func (l *link) close() { _ = l.text.Close() }

// send carries out one command with a small reply. Its error is a *ReplyError
// when tor refused; with any other error the connection is of no more use.
// The text goes through "%s" since bine takes commands for format strings.
func (l *link) send(command string) (*bine.Response, error) {
	if err := l.arm(maxPlainReply); err != nil {
		return nil, err
	}
	response, err := l.bine.SendRequest("%s", command)
	if err == nil {
		return response, nil
	}
	if response != nil {
		return nil, refusal(response.Err.Code, response.Reply)
	}
	return nil, l.explain(err)
}

// arm sets the deadline and the allowance of one exchange. Replies are told
// apart by their order alone, so what came unasked ends the connection.
func (l *link) arm(allowance int64) error {
	if n := l.text.R.Buffered(); n > 0 {
		return fmt.Errorf("tor sent %d bytes that nobody asked for", n)
	}
	l.conn.allow(allowance)
	return l.conn.SetDeadline(time.Now().Add(l.timeout))
}

// explain words what the reader of a log would puzzle over.
func (l *link) explain(err error) error {
	if isTimeout(err) {
		return fmt.Errorf("tor did not answer within %v: %w", l.timeout, err)
	}
	return err
}

// fatal tells whether err ends the connection it happened on.
func fatal(err error) bool {
	var reply *ReplyError
	var usage *usageError
	return err != nil && !errors.As(err, &reply) && !errors.As(err, &usage)
}

// usageError is a caller's mistake, found before anything was sent.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// oneWord refuses what would be more than one argument of a command, or begin
// a second command.
func oneWord(what, s string) error {
	if s == "" || strings.ContainsAny(s, " \t\r\n\x00") {
		return &usageError{fmt.Errorf("%s %q is not one word", what, s)}
	}
	return nil
}
