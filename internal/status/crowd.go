package status

import (
	"net"
	"slices"
	"sync"
)

// maxGuests is how many connections to the status socket are open at a time.
const maxGuests = 32

// crowd is a listener that has at most maxGuests connections open. One more ends
// the oldest, so that however many connect and then say or read nothing, the
// daemon keeps its file descriptors, and who asks in earnest has an answer.
type crowd struct {
	net.Listener
	mu     sync.Mutex
	guests []*guest // the oldest first
}

type guest struct {
	net.Conn
	crowd *crowd
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.guests) == maxGuests {
		c.guests[0].Conn.Close()
		c.guests = c.guests[1:]
	}
	g := &guest{conn, c}
	c.guests = append(c.guests, g)
	return g, nil
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	g.crowd.guests = slices.DeleteFunc(g.crowd.guests, func(other *guest) bool { return other == g })
	return g.Conn.Close()
}
