package sim

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
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
	_ = c.raw.Close() // whatever it says, nothing more is sent
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

// answer acts on a command: it returns the reply, and what to do once that is
// queued, if anything. What is refused, and in what words, follows tor's
// control_cmd.c, control_auth.c and control_getinfo.c.
func (c *conn) answer(name string, command []byte) (reply []byte, after func()) {
	line, body, _ := bytes.Cut(command, []byte("\n"))
	_, args, _ := strings.Cut(strings.TrimRight(string(line), "\r"), " ")
	args = strings.TrimSpace(args)
	if !c.authed && name != "PROTOCOLINFO" && name != "AUTHENTICATE" && name != "AUTHCHALLENGE" && name != "QUIT" {
		c.quit = true
		return line514, nil
	}
	switch name {
	case "PROTOCOLINFO":
		return c.protocolInfo(), nil
	case "AUTHCHALLENGE":
		c.quit = true
		return reply1(515, "Cookie authentication is disabled"), nil
	case "AUTHENTICATE":
		return c.authenticate(args), nil
	case "QUIT":
		c.quit = true
		return reply1(250, "closing connection"), nil
	case "GETINFO":
		return c.tor.getInfo(strings.Fields(args)), nil
	case "GETCONF":
		return c.tor.getConf(strings.Fields(args)), nil
	case "SETCONF", "RESETCONF", "TAKEOWNERSHIP", "DROPOWNERSHIP":
		return replyOK, nil
	case "SETEVENTS":
		return c.setEvents(strings.Fields(args)), nil
	case "SIGNAL":
		return c.signal(args), nil
	case "HSFETCH":
		return c.tor.hsFetch(args)
	case "+HSPOST":
		return c.tor.hsPost(args, body)
	}
	return reply1(510, fmt.Sprintf("Unrecognized command %q", strings.Fields(string(line) + " ?")[0])), nil
}

var (
	replyOK = reply1(250, "OK")
	line514 = reply1(514, "Authentication required.")
)

// reply1 is a reply of one line.
func reply1(code int, text string) []byte { return fmt.Appendf(nil, "%d %s\r\n", code, text) }

func (c *conn) protocolInfo() []byte {
	if c.asked && !c.authed {
		c.quit = true
		return line514
	}
	c.asked = true
	methods := "NULL"
	if c.tor.cfg.Password != "" {
		methods = "HASHEDPASSWORD"
	}
	return fmt.Appendf(nil, "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=%s\r\n250-VERSION Tor=%q\r\n250 OK\r\n", methods, c.tor.cfg.Version)
}

func (c *conn) authenticate(args string) []byte {
	if wanted := c.tor.cfg.Password; wanted != "" {
		given, err := strconv.Unquote(args)
		if err != nil {
			raw, _ := hex.DecodeString(args)
			given = string(raw)
		}
		if given != wanted {
			c.quit = true
			return reply1(515, "Authentication failed: Password did not match HashedControlPassword value from configuration")
		}
	}
	if !c.authed {
		c.tor.counts.Connections++
	}
	c.authed = true
	return replyOK
}

var knownEvents = map[string]bool{
	"CIRC": true, "CIRC_MINOR": true, "STREAM": true, "ORCONN": true, "BW": true, "DEBUG": true, "INFO": true,
	"NOTICE": true, "WARN": true, "ERR": true, "NEWDESC": true, "ADDRMAP": true, "DESCCHANGED": true, "NS": true,
	"STATUS_GENERAL": true, "STATUS_CLIENT": true, "STATUS_SERVER": true, "GUARD": true, "STREAM_BW": true,
	"CLIENTS_SEEN": true, "NEWCONSENSUS": true, "BUILDTIMEOUT_SET": true, "SIGNAL": true, "CONF_CHANGED": true,
	"CONN_BW": true, "CELL_STATS": true, "CIRC_BW": true, "TRANSPORT_LAUNCHED": true, "HS_DESC": true,
	"HS_DESC_CONTENT": true, "NETWORK_LIVENESS": true,
}

func (c *conn) setEvents(kinds []string) []byte {
	wanted := make(map[string]bool)
	for _, kind := range kinds {
		if !knownEvents[strings.ToUpper(kind)] {
			return reply1(552, fmt.Sprintf("Unrecognized event %q", kind))
		}
		wanted[strings.ToUpper(kind)] = true
	}
	c.events = wanted
	return replyOK
}

var knownSignals = map[string]bool{
	"RELOAD": true, "HUP": true, "SHUTDOWN": true, "DUMP": true, "USR1": true, "DEBUG": true, "USR2": true,
	"HALT": true, "TERM": true, "INT": true, "NEWNYM": true, "CLEARDNSCACHE": true, "HEARTBEAT": true,
	"ACTIVE": true, "DORMANT": true,
}

func (c *conn) signal(name string) []byte {
	switch name = strings.ToUpper(name); {
	case name == "":
		return reply1(512, "Bad arguments to SIGNAL: Need at least 1 argument(s)")
	case strings.Contains(name, " "):
		return reply1(512, "Bad arguments to SIGNAL: Cannot accept more than 1 argument(s)")
	case !knownSignals[name]:
		return reply1(552, fmt.Sprintf("Unrecognized signal code %q", name))
	case name == "SHUTDOWN" || name == "HALT" || name == "TERM" || name == "INT":
		c.quit = true
		c.tor.running = false
		defer func() {
			for other := range c.tor.conns {
				if other != c {
					other.drop()
				}
			}
		}()
	}
	return replyOK
}

// getConf answers GETCONF of the options a balancer may ask for.
func (t *Tor) getConf(names []string) []byte {
	values := map[string]string{"testingtornetwork": "TestingTorNetwork=0", "disablenetwork": "DisableNetwork=0",
		"hiddenservicedir": "HiddenServiceDir", "socksport": "SocksPort=auto", "nickname": "Nickname"}
	if t.net.cfg.Testing {
		values["testingtornetwork"] = "TestingTorNetwork=1"
	}
	var answers, refused []string
	for _, name := range names {
		if v, known := values[strings.ToLower(name)]; known {
			answers = append(answers, v)
		} else {
			refused = append(refused, fmt.Sprintf("Unrecognized configuration key %q", name))
		}
	}
	switch {
	case len(refused) > 0:
		return replyLines(552, refused)
	case len(answers) > 0:
		return replyLines(250, answers)
	}
	return replyOK
}

// replyLines is a reply of several lines, the last one marked as such.
func replyLines(code int, lines []string) []byte {
	var b []byte
	for i, line := range lines {
		separator := "-"
		if i == len(lines)-1 {
			separator = " "
		}
		b = fmt.Appendf(b, "%d%s%s\r\n", code, separator, line)
	}
	return b
}
