package sim

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"onionbalancer/internal/tor/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inNetwork runs a test in a bubble of virtual time, with a network.
func inNetwork(t *testing.T, cfg Config, test func(t *testing.T, n *Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(cfg)
		defer n.Close()
		test(t, n)
	})
}

// withControl runs our control client against the network's tor.
func withControl(t *testing.T, n *Network, cfg control.Config, test func(ctx context.Context, c *control.Client)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Dial = n.Dial
	c := control.New(cfg)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	test(ctx, c)
}

// controller speaks the control protocol by hand.
type controller struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, n *Network) *controller {
	t.Helper()
	conn, err := n.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &controller{t, conn, bufio.NewReader(conn)}
}

// say sends lines, each ended with CR LF.
func (c *controller) say(lines ...string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// line reads one line, without CR LF; "" when the connection is closed.
func (c *controller) line() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Hour)) // fails once tor has closed
	line, err := c.in.ReadString('\n')
	if err != nil {
		return ""
	}
	if !strings.HasSuffix(line, "\r\n") {
		c.t.Errorf("line %q does not end with CR LF", line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

// reply reads lines up to the last one of a reply or event.
func (c *controller) reply() []string {
	c.t.Helper()
	var lines []string
	for {
		line := c.line()
		lines = append(lines, line)
		switch {
		case len(line) < 4 || line[3] == ' ':
			return lines
		case line[3] == '+':
			for line != "." {
				line = c.line()
				lines = append(lines, line)
			}
		}
	}
}

// expect sends a command and checks the whole reply.
func (c *controller) expect(command string, want ...string) {
	c.t.Helper()
	c.say(command)
	if got := c.reply(); strings.Join(got, "|") != strings.Join(want, "|") {
		c.t.Errorf("%s:\n got %q\nwant %q", command, got, want)
	}
}
