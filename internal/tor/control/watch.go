package control

import (
	"context"
	"time"

	bine "github.com/cretz/bine/control"
)

// Watch returns a channel that wakes its reader when the documents of GetInfo
// may have changed: a new consensus arrived, tor has enough directory
// information, or the connection was made (anew). Wakes coalesce: one that was
// not received yet stands for all. With a connection there, the first wake is
// waiting at once. The channel is never closed; it falls silent when ctx ends.
//
// No event tells of microdescriptors. For some seconds after a new consensus
// those of its new relays are on their way.
func (c *Client) Watch(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[ch] = struct{}{}
	if c.session != nil {
		ch <- struct{}{}
	}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, ch)
	})
	return ch
}

func (c *Client) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeLocked()
}

func (c *Client) wakeLocked() {
	for ch := range c.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// noteSkew keeps what tor said of the clock for whoever asks why there is no
// consensus.
func (c *Client) noteSkew(ahead time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = ahead
}

// handle hands an event on, and never waits. A malformed one is well framed
// still, so the connection goes on.
func (s *session) handle(response *bine.Response) {
	e, err := parseEvent(response.Data, response.Reply)
	switch {
	case err != nil:
		s.log.Debug("malformed event from tor", "error", err)
	case e.hsDesc != nil:
		s.deliver(e.hsDesc)
	case e.progress != nil:
		s.client.tellProgress(*e.progress)
		if e.progress.Done() {
			s.client.wake()
		}
	case e.refresh:
		s.client.wake()
	case e.skew != 0:
		s.client.noteSkew(e.skew)
	}
}
