package testnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// Client is a tor with a SOCKS port and a control port. It serves as a user's
// tor and as the one that a balancer manages services through.
type Client struct {
	*node
	socksPort   string
	controlPort string
}

// newClient prepares a client without starting it.
func (n *Network) newClient(name string) (*Client, error) {
	socksPort, err := n.ports.reserve()
	if err != nil {
		return nil, err
	}
	controlPort, err := n.ports.reserve()
	if err != nil {
		return nil, err
	}
	d, err := n.newNode(name)
	if err != nil {
		return nil, err
	}
	d.group = n.nextGroup()
	c := &Client{node: d, socksPort: socksPort, controlPort: controlPort}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[name] != nil {
		return nil, fmt.Errorf("there is a client %q already", name)
	}
	n.clients[name] = c
	return c, nil
}

// Client finds a client by its name; nil when there is none.
func (n *Network) Client(name string) *Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.clients[name]
}

// ControlTarget is the control port of a client as "host:port", for
// authentication by cookie; empty when there is no such client.
func (n *Network) ControlTarget(client string) string {
	if c := n.Client(client); c != nil {
		return c.controlPort
	}
	return ""
}

// torrc is the client's configuration.
func (c *Client) torrc() *torrc {
	t := c.net.clientConfig(c.dir, c.socksPort, c.controlPort)
	t.options(c.net.config.ClientOptions)
	return t
}

// ready waits until the client can use the whole network. A tor counts itself as
// bootstrapped with a first consensus of the authorities alone, too.
func (c *Client) ready(ctx context.Context) error {
	if err := c.net.until(ctx, 100*time.Millisecond, func() (bool, error) { return c.bootstrapped() == 100 && c.upToDate(), nil }); err != nil {
		return fmt.Errorf("waiting for client %q, at %d %%: %w\n%s", c.name, c.bootstrapped(), err, logTail(c.dir))
	}
	return nil
}

// upToDate reports whether the client has the first consensus with all relays or a
// later one, and the microdescriptors that circuits take.
func (c *Client) upToDate() bool {
	p, has := c.current(), c.ValidAfter()
	return p != nil && !has.IsZero() && !has.Before(c.net.complete) && p.info("status/enough-dir-info") == "1"
}

// ValidAfter is that of the consensus that the client has; zero if it has none. Clients
// may have a new one two voting intervals late.
func (c *Client) ValidAfter() time.Time {
	p := c.current()
	if p == nil {
		return time.Time{}
	}
	at, _ := time.Parse(time.DateTime, p.info("consensus/valid-after")) // zero if it is none
	return at
}

// Kill ends the client's tor by kill -9.
func (c *Client) Kill() { c.end(true) }

// Restart starts the client's tor, ending it before if it runs, and waits
// until it has a circuit. Ports and data stay.
func (c *Client) Restart(ctx context.Context) error {
	c.end(false)
	if err := c.torrc().write(c.dir); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	return c.ready(ctx)
}

// Forget has the client drop the descriptors that it keeps, and use new circuits from
// now on. Tor waits if less than 10 s have passed since the last time.
func (c *Client) Forget() error {
	p := c.current()
	if p == nil || !p.running() {
		return fmt.Errorf("having client %q forget: its tor does not run", c.name)
	}
	if _, err := p.command("SIGNAL NEWNYM"); err != nil {
		return fmt.Errorf("having client %q forget: %w", c.name, err)
	}
	return nil
}

// Refetch has the client fetch the descriptor of an onion address as a new visitor's tor
// would, whatever it keeps, and returns when the answer is there. The HSDir is the one
// given, 40 hexadecimal digits, or drawn by tor if it is empty.
func (c *Client) Refetch(ctx context.Context, address, hsdir string) error {
	p := c.current()
	if p == nil || !p.running() {
		return fmt.Errorf("having client %q fetch a descriptor: its tor does not run", c.name)
	}
	label := strings.TrimSuffix(address, ".onion")
	before := c.answers(label)
	line := "HSFETCH " + label
	if hsdir != "" {
		line += " SERVER=" + hsdir
	}
	if _, err := p.command(line); err != nil {
		return fmt.Errorf("having client %q fetch a descriptor: %w", c.name, err)
	}
	return c.net.until(ctx, time.Second, func() (bool, error) { return c.answers(label) > before, nil })
}

// answers is how often an HSDir has answered for the descriptor of an address.
func (c *Client) answers(label string) uint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetched[label]
}

// Asked are the HSDirs that the client has asked for the descriptor of an onion address
// since it was started, in order, as 40 hexadecimal digits.
func (c *Client) Asked(address string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked[strings.TrimSuffix(address, ".onion")])
}

// SocksAddress is the client's SOCKS port, as "host:port".
func (c *Client) SocksAddress() string { return c.socksPort }

// ControlAddress is the client's control port, as "host:port".
func (c *Client) ControlAddress() string { return c.controlPort }

// Dial connects through the client. Streams of one user share circuits, those
// of different users never do; a new user thus gets a new rendezvous, and with
// it a new choice of the introduction point.
func (c *Client) Dial(ctx context.Context, user, address string) (net.Conn, error) {
	dialer, err := proxy.SOCKS5("tcp", c.socksPort, &proxy.Auth{User: user, Password: "x"}, new(net.Dialer))
	if err != nil {
		return nil, fmt.Errorf("dialing through client %q: %w", c.name, err)
	}
	conn, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dialing through client %q: %w", c.name, err)
	}
	return conn, nil
}

// HTTP is an HTTP client that goes through the tor client as a user. It makes
// a new connection for every request.
func (c *Client) HTTP(user string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return c.Dial(ctx, user, address)
		},
	}}
}

// Get fetches a document as a user and returns its body, which is an error
// unless the status is 200.
func (c *Client) Get(ctx context.Context, user, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := c.HTTP(user).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("fetching %s: %s", url, response.Status)
	}
	return string(body), err
}
