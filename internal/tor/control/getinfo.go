package control

import (
	"context"
	"fmt"
	"strings"
)

// GetInfo returns the value of one key of GETINFO (control-spec, section 3.9).
// Documents come with LF line ends and the newline of their last line. Before
// tor has a consensus, asking for one gives a *ReplyError of code 551.
// Replies above Config.MaxReply give ErrTooLarge.
func (c *Client) GetInfo(ctx context.Context, key string) ([]byte, error) {
	if err := oneWord("GETINFO key", key); err != nil {
		return nil, err
	}
	var value []byte
	err := c.do(ctx, func(l *controlConn) error {
		r, err := l.exchange("GETINFO "+key, nil, c.cfg.MaxReply, c.sizeOf(key))
		if err == nil {
			value, err = r.info(key)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking tor for %s: %w", key, err)
	}
	c.noteSize(key, len(value))
	return value, nil
}

// GetConf returns the values of one option of tor's configuration: none when
// it is unset, several for options that are lists. An unknown option is a
// *ReplyError of code 552.
func (c *Client) GetConf(ctx context.Context, key string) ([]string, error) {
	if err := oneWord("GETCONF key", key); err != nil {
		return nil, err
	}
	lines, err := c.command(ctx, "GETCONF "+key)
	if err != nil {
		return nil, fmt.Errorf("asking tor for option %s: %w", key, err)
	}
	var values []string
	for _, line := range lines {
		if _, value, set := strings.Cut(line, "="); set {
			values = append(values, value)
		}
	}
	return values, nil
}

// Listeners returns where tor listens for kind, such as "socks": "unix:/path" or
// "host:port" each (GETINFO net/listeners/kind).
func (c *Client) Listeners(ctx context.Context, kind string) ([]string, error) {
	value, err := c.GetInfo(ctx, "net/listeners/"+kind)
	if err != nil {
		return nil, err
	}
	var list []string
	for rest := strings.TrimSpace(string(value)); rest != ""; rest = strings.TrimSpace(rest) {
		var listener string
		if listener, rest, err = unquote(rest); err != nil {
			return nil, fmt.Errorf("reading tor's listeners for %s: %w", kind, err)
		}
		list = append(list, listener)
	}
	return list, nil
}

// Signal sends a signal of section 3.7 of control-spec, such as "RELOAD" or
// "NEWNYM".
func (c *Client) Signal(ctx context.Context, name string) error {
	if err := oneWord("signal", name); err != nil {
		return err
	}
	if _, err := c.command(ctx, "SIGNAL "+name); err != nil {
		return fmt.Errorf("sending signal %s to tor: %w", name, err)
	}
	return nil
}

// command carries out a command with a small reply, and returns its lines.
func (c *Client) command(ctx context.Context, command string) ([]string, error) {
	var r *reply
	err := c.do(ctx, func(l *controlConn) (err error) {
		r, err = l.send(command)
		return err
	})
	if err != nil {
		return nil, err // and the reply may come yet
	}
	return r.lines, nil
}

// sizeOf is the size of the last value of key: reading a document into
// a buffer of its size costs no copies.
func (c *Client) sizeOf(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sizes[key]
}

func (c *Client) noteSize(key string, size int) {
	const worthwhile, enough = 64 << 10, 16
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.sizes[key]; known || size >= worthwhile && len(c.sizes) < enough {
		c.sizes[key] = size
	}
}
