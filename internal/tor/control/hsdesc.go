package control

import (
	"bytes"
	"context"
	"fmt"
)

// maxPost is the largest descriptor that tor accepts over the control port: its
// limit for a command is 1 MiB, including stuffed dots and line ends.
const maxPost = 1<<20 - 4096

// HSFetch has tor fetch the descriptor of an onion service, for the period of
// now, from one HSDir, and returns the bytes from the HSDir, with LF line
// ends. address is 56 characters, without ".onion"; hsdir 40 hex digits.
//
// The error is a *HSDescError when the HSDir or the way to it failed, a
// *ReplyError when tor refused the command (552: it does not know the HSDir),
// ErrNotConnected when there is no connection or it is lost. tor may never report,
// so ctx should have a deadline. Calls for one address and HSDir, posts among
// them, wait for each other, since tor's events name no request; others run
// side by side.
func (c *Client) HSFetch(ctx context.Context, address, hsdir string) ([]byte, error) {
	p, err := newPair(address, hsdir)
	if err != nil {
		return nil, fmt.Errorf("fetching a descriptor: %w", err)
	}
	command := "HSFETCH " + p.address + " SERVER=$" + p.hsdir
	content, err := c.ask(ctx, p, command, nil)
	if err != nil {
		return nil, wrapHSDesc("fetching the descriptor of", p, err)
	}
	return content, nil
}

// HSPost has tor upload a descriptor to one HSDir and waits for the HSDir's
// answer. address is that of the service which body belongs to. Errors, ctx
// and concurrency are as with HSFetch; a *ReplyError of code 554 says that tor
// finds the descriptor malformed.
//
// When a post is cancelled by its ctx and another to the same HSDir follows, a
// late answer to the first may be taken for the second's: tor gives nothing to
// tell them apart.
func (c *Client) HSPost(ctx context.Context, address, hsdir string, body []byte) error {
	p, err := newPair(address, hsdir)
	if err != nil {
		return fmt.Errorf("posting a descriptor: %w", err)
	}
	most := len(body) + 2*bytes.Count(body, []byte("\n")) // each line longer by a CR and a dot
	if most > maxPost || len(body) == 0 || bytes.IndexByte(body, 0) >= 0 {
		return wrapHSDesc("posting the descriptor of", p,
			fmt.Errorf("descriptor of %d bytes: empty, with a zero byte, or longer than %d", most, maxPost))
	}
	command := "+HSPOST SERVER=$" + p.hsdir + " HSADDRESS=" + p.address
	if _, err := c.ask(ctx, p, command, body); err != nil {
		return wrapHSDesc("posting the descriptor of", p, err)
	}
	return nil
}

func wrapHSDesc(doing string, p pair, err error) error {
	if _, ok := err.(*HSDescError); ok {
		return err
	}
	return fmt.Errorf("%s %s at HSDir %s: %w", doing, short(p.address), p.hsdir, err)
}

// ask carries out a command, a post if there is a body, and waits for the event that
// answers it.
func (c *Client) ask(ctx context.Context, p pair, command string, body []byte) ([]byte, error) {
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	w, err := s.register(ctx, p, body != nil) // before sending: the event may overtake the reply
	if err != nil {
		return nil, err
	}
	defer s.unregister(p, w)
	err = s.do(ctx, func(l *controlConn) error {
		_, err := l.exchange(command, body, maxPlainReply, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	select {
	case r := <-w.result:
		return r.content, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer: %w", ctx.Err())
	case <-s.done:
		return nil, s.lost()
	}
}
