package control

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	addressA = strings.Repeat("a", 56)
	addressB = strings.Repeat("b", 56)
	hsdir1   = strings.Repeat("1A", 20)
	hsdir2   = strings.Repeat("2B", 20)
)

// fakeTor is a control port in memory that answers what its script says. The
// zero value is a tor that takes anybody and knows nothing.
type fakeTor struct {
	protocolInfo string // AUTH line; METHODS=NULL when empty
	version      string // 0.4.9.11 when empty
	refuse       error  // of every dial, while set

	mu       sync.Mutex
	script   map[string]func(c *fakeConn, line, body string) // by the command's first word
	conns    map[*fakeConn]struct{}
	dials    []time.Time
	commands []string // all that came, without SIGNAL
	serving  sync.WaitGroup
}

type fakeConn struct {
	net.Conn
	tor    *fakeTor
	r      *bufio.Reader
	events bool
	write  sync.Mutex
}

func (f *fakeTor) dial(ctx context.Context) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials = append(f.dials, time.Now())
	if f.refuse != nil {
		return nil, f.refuse
	}
	ours, theirs := net.Pipe()
	f.takeLocked(ours)
	return theirs, nil
}

func (f *fakeTor) takeLocked(conn net.Conn) {
	c := &fakeConn{Conn: conn, tor: f, r: bufio.NewReader(conn)}
	if f.conns == nil {
		f.conns = make(map[*fakeConn]struct{})
	}
	f.conns[c] = struct{}{}
	f.serving.Go(c.serve)
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listen answers on a real socket for the rest of the test.
func (f *fakeTor) listen(t *testing.T, l net.Listener) (target string) {
	f.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.takeLocked(conn)
			f.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.die()
		f.serving.Wait()
	})
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// on sets the answer to a command, such as "GETINFO".
func (f *fakeTor) on(word string, answer func(c *fakeConn, line, body string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.script == nil {
		f.script = make(map[string]func(*fakeConn, string, string))
	}
	f.script[word] = answer
}

func (c *fakeConn) serve() {
	defer c.drop()
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		body := ""
		if strings.HasPrefix(line, "+") {
			for !strings.HasSuffix("\n"+body, "\n.\r\n") {
				part, err := c.r.ReadString('\n')
				if err != nil {
					return
				}
				body += part
			}
		}
		c.answer(strings.TrimPrefix(line, "+"), body)
	}
}

func (c *fakeConn) answer(line, body string) {
	word, _, _ := strings.Cut(line, " ")
	c.tor.mu.Lock()
	scripted := c.tor.script[word]
	if word != "SIGNAL" {
		c.tor.commands = append(c.tor.commands, line)
	}
	auth := c.tor.protocolInfo
	c.tor.mu.Unlock()
	if auth == "" {
		auth = "METHODS=NULL"
	}
	switch {
	case scripted != nil:
		scripted(c, line, body)
	case word == "PROTOCOLINFO":
		c.say("250-PROTOCOLINFO 1", "250-AUTH "+auth, fmt.Sprintf("250-VERSION Tor=%q", cmp.Or(c.tor.version, "0.4.9.11")), "250 OK")
	case word == "SETEVENTS":
		c.tor.mu.Lock()
		c.events = true
		c.tor.mu.Unlock()
		c.say("250 OK")
	case word == "GETINFO" || word == "GETCONF":
		c.say("552 Unrecognized key")
	default:
		c.say("250 OK")
	}
}

// say writes lines; the client may have gone.
func (c *fakeConn) say(lines ...string) {
	c.raw(strings.Join(lines, "\r\n") + "\r\n")
}

func (c *fakeConn) raw(text string) {
	c.write.Lock()
	defer c.write.Unlock()
	_, _ = io.WriteString(c.Conn, text)
}

func (c *fakeConn) drop() {
	_ = c.Conn.Close()
	c.tor.mu.Lock()
	defer c.tor.mu.Unlock()
	delete(c.tor.conns, c)
}

// event sends raw text to the connection that asked for events.
func (f *fakeTor) event(text string) {
	for _, c := range f.connsFor(true) {
		c.raw(text)
	}
}

// connsFor gives the connections that carry events, or those that do not.
func (f *fakeTor) connsFor(events bool) (conns []*fakeConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.events == events {
			conns = append(conns, c)
		}
	}
	return conns
}

// die drops all connections, as a tor that ends does.
func (f *fakeTor) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Conn.Close()
	}
}

func (f *fakeTor) count(word string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, line := range f.commands {
		if line == word || strings.HasPrefix(line, word+" ") {
			n++
		}
	}
	return n
}

func (f *fakeTor) setRefuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

var errRefused = errors.New("connection refused")

// withClient runs a test in virtual time with a client of tor that is
// connected, and ends both.
func withClient(t *testing.T, tor *fakeTor, cfg Config, test func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg.Dial = tor.dial
		c := New(cfg)
		var group sync.WaitGroup
		group.Go(func() {
			if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v, want the context's error", err)
			}
		})
		defer tor.serving.Wait()
		defer group.Wait()
		defer cancel()
		within(t, time.Minute, c.Ready)
		test(t, c)
	})
}

// within calls f with a deadline and fails the test on an error.
func within(t *testing.T, d time.Duration, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

// infoAnswer makes a GETINFO answer of one line.
func infoAnswer(value string) func(c *fakeConn, line, body string) {
	return func(c *fakeConn, line, _ string) {
		key := strings.TrimPrefix(line, "GETINFO ")
		c.say(fmt.Sprintf("250-%s=%s", key, value), "250 OK")
	}
}
