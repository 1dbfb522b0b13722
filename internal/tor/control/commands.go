package control

import (
	"context"
	"fmt"
	"strings"

	"github.com/cretz/bine/torutil"
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
	err := c.do(ctx, func(l *link) (err error) {
		value, err = l.getInfo(key, c.cfg.MaxReply, c.sizeOf(key))
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
	var lines []string
	err := c.do(ctx, func(l *link) error {
		response, err := l.send("GETCONF " + key)
		if err == nil {
			lines = response.DataWithReply()
		}
		return err
	})
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

// Option is one line of tor's configuration.
type Option struct{ Key, Value string }

// SetConf sets options, all or none of them. They go in one command, in this
// order, which matters for those of onion services.
func (c *Client) SetConf(ctx context.Context, options ...Option) error {
	if len(options) == 0 {
		return nil
	}
	command := "SETCONF"
	for _, o := range options {
		if err := oneWord("SETCONF key", o.Key); err != nil {
			return err
		}
		if strings.Contains(o.Key, "=") || strings.ContainsAny(o.Value, "\r\n\x00") {
			return &usageError{fmt.Errorf("setting tor's option %q: line break, or %q in the key", o.Key, "=")}
		}
		command += " " + o.Key + "=" + torutil.EscapeSimpleQuotedString(o.Value)
	}
	return c.command(ctx, "setting tor's options", command)
}

// Signal sends a signal of section 3.7 of control-spec, such as "RELOAD" or
// "SHUTDOWN".
func (c *Client) Signal(ctx context.Context, name string) error {
	if err := oneWord("signal", name); err != nil {
		return err
	}
	return c.command(ctx, "sending signal "+name+" to tor", "SIGNAL "+name)
}

func (c *Client) command(ctx context.Context, doing, command string) error {
	err := c.do(ctx, func(l *link) error {
		_, err := l.send(command)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// sizeOf is how long the value of key was last time: reading a document into
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
