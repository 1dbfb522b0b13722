package sim

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"sync"
)

// conn is the tor's end of a control connection: one goroutine reads commands
// and acts on them, another writes what is queued, so that a controller that
// does not read holds nobody up. Network.mu protects the fields down to the
// blank line; it may be held while taking mu, never the other way round.
type conn struct {
	tor    *Tor
	raw    net.Conn
	authed bool
	asked  bool // for PROTOCOLINFO
	quit   bool
	events map[string]bool

	mu     sync.Mutex
	more   sync.Cond
	out    []byte
	last   bool // close when out is written
	closed bool
}

// newConn starts serving raw, with Network.mu held.
func newConn(t *Tor, raw net.Conn) *conn {
	c := &conn{tor: t, raw: raw, events: make(map[string]bool)}
	c.more.L = &c.mu
	t.conns[c] = true
	t.net.conns.Go(c.write)
	t.net.conns.Go(c.read)
	return c
}

// drop closes the connection without writing what is queued.
func (c *conn) drop() {
	c.mu.Lock()
	c.closed = true
	c.more.Signal()
	c.mu.Unlock()
	_ = c.raw.Close() // a pipe's Close cannot fail
}

// closeAfter closes the connection once what is queued is written.
func (c *conn) closeAfter() {
	c.mu.Lock()
	c.last = true
	c.more.Signal()
	c.mu.Unlock()
}

// send queues b, whole.
func (c *conn) send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last {
		c.out = append(c.out, b...)
		c.more.Signal()
	}
}

func (c *conn) write() {
	defer c.raw.Close()
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.closed && !c.last {
			c.more.Wait()
		}
		out := c.out
		c.out = nil
		done := c.closed || c.last
		c.mu.Unlock()
		if len(out) > 0 {
			if _, err := c.raw.Write(out); err != nil {
				return
			}
		}
		if done {
			return
		}
	}
}

// read takes commands until the connection closes.
func (c *conn) read() {
	defer func() {
		c.tor.net.lock()
		delete(c.tor.conns, c)
		c.tor.net.mu.Unlock()
		c.closeAfter()
	}()
	in := bufio.NewReader(c.raw)
	for {
		command, err := readCommand(in)
		if err != nil || !c.serve(command) {
			return
		}
	}
}

// readCommand reads one line, or, for a command that starts with a plus sign,
// all lines down to a single dot; that dot line is left out.
func readCommand(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadBytes('\n')
	if err != nil || line[0] != '+' {
		return line, err
	}
	var b bytes.Buffer
	for b.Write(line); ; b.Write(line) {
		if line, err = in.ReadBytes('\n'); err != nil {
			return nil, err
		}
		if s := string(line); s == ".\r\n" || s == ".\n" {
			return b.Bytes(), nil
		}
	}
}

// serve acts on one command; it says whether the connection goes on.
func (c *conn) serve(command []byte) bool {
	head, _, _ := bytes.Cut(command, []byte("\n"))
	name, _, _ := strings.Cut(strings.TrimSpace(string(head)), " ")
	name = strings.ToUpper(name)
	n := c.tor.net
	n.lock()
	defer n.mu.Unlock()
	if !c.tor.running || n.agenda.closed {
		return false
	}
	if c.tor.faults.Mute {
		return true
	}
	reply, after := c.answer(name, command)
	m, mangled := c.tor.mangled[name]
	switch delete(c.tor.mangled, name); {
	case mangled && m.cut:
		c.send(reply[:min(m.after, len(reply))])
		return false
	case mangled:
		reply = m.garbage
	}
	c.send(reply)
	if after != nil {
		after()
	}
	return !c.quit
}

// event sends an event to every controller that wants it.
func (t *Tor) event(kind, text string) {
	if t.faults.LoseEvents || !t.running {
		return
	}
	for c := range t.conns {
		if c.authed && c.events[kind] {
			c.send([]byte(text))
		}
	}
}
