package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Progress is how far tor has come on its way into the network.
type Progress struct {
	Percent int    // 0 to 100
	Tag     string // a word for programs, such as "conn_dir"
	Summary string // for people
	Warning string // what went wrong last, if anything did
	Reason  string // a word for programs about Warning, such as "CLOCK_SKEW"
	Stuck   bool   // tor thinks that people should be told of Warning
}

// Done tells whether tor can build circuits.
func (p Progress) Done() bool { return p.Percent >= 100 }

// Bootstrap asks tor how far it is.
func (c *Client) Bootstrap(ctx context.Context) (Progress, error) {
	value, err := c.GetInfo(ctx, "status/bootstrap-phase")
	if err != nil {
		return Progress{}, err
	}
	e, err := parseStatusClient(string(value))
	if err != nil {
		return Progress{}, fmt.Errorf("reading bootstrap phase: %w", err)
	}
	if e.progress == nil {
		return Progress{}, fmt.Errorf("reading bootstrap phase: no BOOTSTRAP in %.80q", value)
	}
	return *e.progress, nil
}

// WatchBootstrap returns a channel of tor's progress as its events tell it. It
// holds the latest only, is never closed, and gets nothing more once ctx ends.
// Bootstrap gives what was told before.
func (c *Client) WatchBootstrap(ctx context.Context) <-chan Progress {
	ch := make(chan Progress, 1)
	c.mu.Lock()
	c.progress[ch] = struct{}{}
	c.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.progress, ch)
	})
	return ch
}

func (c *Client) tellProgress(p Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.progress {
		select {
		case <-ch:
		default:
		}
		ch <- p // room was made, and only we send, under the lock
	}
}

// parseBootstrap reads the arguments of BOOTSTRAP: KEY=VALUE, values quoted
// where they have spaces.
func parseBootstrap(args string) (Progress, error) {
	p := Progress{Percent: -1}
	for args = strings.TrimLeft(args, " "); args != ""; args = strings.TrimLeft(args, " ") {
		key, rest, found := strings.Cut(args, "=")
		if !found {
			return p, fmt.Errorf("BOOTSTRAP argument %.40q has no value", args)
		}
		value, err := "", error(nil)
		if strings.HasPrefix(rest, `"`) {
			value, args, err = unquote(rest)
		} else {
			value, args, _ = strings.Cut(rest, " ")
		}
		if err != nil {
			return p, fmt.Errorf("BOOTSTRAP argument %.40q: %w", key, err)
		}
		if err := p.set(key, value); err != nil {
			return p, err
		}
	}
	if p.Percent < 0 {
		return p, fmt.Errorf("BOOTSTRAP without PROGRESS")
	}
	return p, nil
}

func (p *Progress) set(key, value string) error {
	switch key {
	case "PROGRESS":
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil || n > 100 {
			return fmt.Errorf("BOOTSTRAP with PROGRESS %.20q", value)
		}
		p.Percent = int(n)
	case "TAG":
		p.Tag = value
	case "SUMMARY":
		p.Summary = value
	case "WARNING":
		p.Warning = value
	case "REASON":
		p.Reason = value
	case "RECOMMENDATION":
		p.Stuck = value == "warn"
	}
	return nil
}
