// Package tor manages the tors that balancer uses: it connects to running ones
// or starts its own, spreads services over them, and moves the services
// of one that died to the others.
//
// A [Pool] has one [Tor] or several. Each follows its own consensus and has its
// own guards. A service belongs to one tor at a time, chosen by rendezvous hash,
// so that a tor that dies or returns moves its own services and no others.
package tor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
)

// How long Ready waits for tor to answer at all, and despite a failure: tor
// may be just starting.
const (
	connectPatience = 10 * time.Second
	failurePatience = 2 * time.Second
)

// Tor is one tor and the connection to it. Its methods may be called
// concurrently.
type Tor struct {
	name   string
	target string
	client *control.Client
	own    *process.Process // nil unless we started it

	mu         sync.Mutex
	until      time.Time // when its consensus expires; zero if it has none
	guards     []string  // fingerprints of the guards it uses
	sameGuards []string  // names of the pool's tors that use one of them too
	uploads    uploads
	socks      port // of the last visit

	judged judgement // by the pool, which guards it
}

// New returns a tor that client talks to. name identifies it in its
// pool and stays the same over restarts: services are spread by it.
func New(name string, client *control.Client) *Tor {
	return &Tor{name: name, target: name, client: client, judged: judgement{health: well}}
}

// Name identifies the tor in its pool: "tor", "tor-2" and so on for
// our own, the control port for others.
func (t *Tor) Name() string { return t.name }

// Target describes where the tor is, for people: its control port, or that it is our
// own.
func (t *Tor) Target() string { return t.target }

// Own reports whether we started it.
func (t *Tor) Own() bool { return t.own != nil }

// Client is the connection. The pool runs it.
func (t *Tor) Client() *control.Client { return t.client }

// Ready waits for tor to answer, and returns why it does not.
func (t *Tor) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	began := time.Now()
	for {
		step, cancel := context.WithTimeout(ctx, failurePatience/4)
		err := t.client.Ready(step)
		cancel()
		failure := t.client.Failure()
		switch {
		case err == nil:
			return nil
		case failure != nil && time.Since(began) >= failurePatience:
			return failure
		case ctx.Err() != nil:
			return err
		}
	}
}

// EachConnect calls do after each new connection to tor, the present one
// included, until ctx ends. do should return soon.
func (t *Tor) EachConnect(ctx context.Context, do func()) {
	woken := t.client.Watch(ctx)
	connects := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-woken:
			if n := t.client.State().Connects; n != connects {
				connects = n
				do()
			}
		}
	}
}

// Status is the state of a tor for an operator.
type Status struct {
	Name      string
	Control   string // as Target
	Connected bool
	Since     time.Time // when Connected took its value
	Version   string    // as "0.4.9.11", of the last connection
	Error     string    // why there is no connection

	Own       bool
	Bootstrap int    // percent, of our own
	Restarts  int    // of our own
	Socket    string // control port of our own, "unix:/path"

	Serving    bool     // false while its services are moved to other tors
	SameGuards []string // names of the pool's tors that use a guard of this one
}

// status describes the tor now, except Serving, which the pool knows.
func (t *Tor) status() Status {
	s := t.client.State()
	out := Status{Name: t.name, Control: t.target, Connected: s.Connected, Since: s.Since, Version: s.TorVersion}
	if !s.Connected {
		out.Error = s.LastError
	}
	if t.own != nil {
		p := t.own.State()
		out.Own, out.Bootstrap, out.Restarts = true, p.Bootstrap.Percent, p.Restarts
		out.Socket = "unix:" + t.own.Socket()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out.SameGuards = t.sameGuards
	return out
}

// Socks returns the address of a SOCKS port of this tor, for net.Dial: of our
// own a unix socket; of another a unix socket if it has one, else a port.
func (t *Tor) Socks(ctx context.Context) (network, address string, err error) {
	if t.own != nil {
		return "unix", t.own.SocksSocket(), nil
	}
	listeners, err := t.client.Listeners(ctx, "socks")
	if err != nil {
		return "", "", err
	}
	for _, l := range listeners {
		if path, ok := strings.CutPrefix(l, "unix:"); ok {
			return "unix", path, nil
		}
	}
	host := t.host()
	for _, l := range listeners {
		if address, ok := reachable(l, host); ok {
			return "tcp", address, nil
		}
	}
	return "", "", &control.Advice{
		Err: errors.New("tor has no SOCKS port that can be reached from here"),
		Fix: "put a line \"SocksPort unix:/run/tor/socks\" into its torrc, in a directory that balancer's user may enter, then reload it",
	}
}

// host is where the control port is, an IP address: on this machine by default.
func (t *Tor) host() netip.Addr {
	host, _, _ := net.SplitHostPort(t.target)
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// reachable turns a listener of a tor on host into what can be dialled from
// here.
func reachable(listener string, host netip.Addr) (address string, ok bool) {
	at, err := netip.ParseAddrPort(listener)
	if err != nil {
		return "", false
	}
	ip := at.Addr().Unmap()
	switch {
	case ip.IsUnspecified():
		ip = host
	case ip.IsLoopback() && !host.IsLoopback():
		return "", false // of another machine
	}
	return netip.AddrPortFrom(ip, at.Port()).String(), true
}

// close stops a tor of our own.
func (t *Tor) close() {
	if t.own != nil {
		t.own.Stop()
	}
}

// expiry asks tor when its consensus expires, zero if it has none.
func (t *Tor) expiry(ctx context.Context) (time.Time, error) {
	value, err := t.client.GetInfo(ctx, "consensus/valid-until")
	var refused *control.ReplyError
	if errors.As(err, &refused) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	until, err := time.Parse(time.DateTime, strings.TrimSpace(string(value)))
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when tor's consensus expires: %w", err)
	}
	return until, nil
}

// guardsInUse asks tor for the fingerprints of the guards that it has used and
// considers up. Those that it only sampled are "never-connected".
func (t *Tor) guardsInUse(ctx context.Context) ([]string, error) {
	value, err := t.client.GetInfo(ctx, "entry-guards")
	if err != nil {
		return nil, err
	}
	var guards []string
	for line := range strings.Lines(string(value)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[1] != "up" {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(words[0], "$"), "~")
		name, _, _ = strings.Cut(name, "=")
		guards = append(guards, strings.ToUpper(name))
	}
	return guards, nil
}
