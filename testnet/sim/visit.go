package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Dialer visits onion services through the network's tor, as its SOCKS port does.
// A visit takes the time that it takes tor. The Dialer's methods may be called from
// any goroutine.
type Dialer struct {
	net      *Network
	clients  map[descriptor.Address]*visitor
	circuits map[circuitName]*circuit
	streams  map[*stream]bool
	counts   Visits
}

// Visits counts what a Dialer did.
type Visits struct {
	// Dials counts all visits, Fresh those that needed circuits of their own.
	Dials, Fresh int
	// Introductions counts what these asked introduction points.
	Introductions int
	// Keys is how many client keys the tor has now.
	Keys int
}

// visitor is what the tor knows of one service.
type visitor struct {
	*Client
	fetched     []byte // by HSFETCH, not read yet
	fetchedKeys descriptor.PeriodKeys
}

// circuitName is what visits share a circuit by.
type circuitName struct {
	address descriptor.Address
	name    string
}

// circuit is a rendezvous circuit to an instance.
type circuit struct {
	instance *Instance
	links    uint64 // of the instance, when it was built
	life     int    // of our tor
	used     time.Time
}

// circuitLife is for how long tor keeps a circuit that nothing uses.
const circuitLife = 10 * time.Minute

// dialerName is Trace.Via.
const dialerName = "sim"

var (
	errNoTor    = fmt.Errorf("connecting to tor's SOCKS port: %w", ErrRefused)
	errOffline  = errors.New("no circuit could be built")
	errUnknown  = errors.New("the introduction point does not know the service")
	errNoAnswer = errors.New("nothing comes back from the service")
	errClosed   = errors.New("the circuit was closed")
)

func newDialer(n *Network) *Dialer {
	return &Dialer{net: n, clients: make(map[descriptor.Address]*visitor),
		circuits: make(map[circuitName]*circuit), streams: make(map[*stream]bool)}
}

// Dialer visits services through the tor that Dial reaches.
func (n *Network) Dialer() *Dialer { return n.dialer }

// Visits is what the Dialer did so far.
func (d *Dialer) Visits() Visits {
	d.net.lock()
	defer d.net.mu.Unlock()
	return d.counts
}

// Ended tells when the circuit ends that earlier visits like v share: when a stream on it
// does.
func (d *Dialer) Ended(ctx context.Context, v health.Visit) (<-chan struct{}, error) {
	conn, _, err := d.Dial(ctx, v)
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer close(ended)
		defer stop()
		_, _ = io.Copy(io.Discard, conn)
	}()
	return ended, nil
}

// Authorize gives the tor the client key for a service.
func (d *Dialer) Authorize(ctx context.Context, a descriptor.Address, key *descriptor.ClientKey) error {
	d.net.lock()
	defer d.net.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("giving tor a client key: %w", err)
	}
	if !d.net.tor.running {
		return fmt.Errorf("giving tor a client key: %w", ErrRefused)
	}
	v := d.visitor(a)
	if v.cfg.Key == nil {
		d.counts.Keys++
	}
	v.cfg.Key = key
	return nil
}

// Revoke takes the client key for a service away again, and what was read with it.
func (d *Dialer) Revoke(_ context.Context, a descriptor.Address) error {
	d.net.lock()
	defer d.net.mu.Unlock()
	if !d.net.tor.running {
		return fmt.Errorf("taking a client key from tor: %w", ErrRefused)
	}
	if v := d.clients[a]; v != nil && v.cfg.Key != nil {
		d.counts.Keys--
		delete(d.clients, a)
	}
	return nil
}

// Dial connects to a port of an onion service.
func (d *Dialer) Dial(ctx context.Context, v health.Visit) (net.Conn, health.Trace, error) {
	trace := health.Trace{Via: dialerName}
	ctx, cancel := context.WithTimeout(ctx, socksTimeout)
	defer cancel()
	c, err := d.reach(ctx, v, &trace)
	if err == nil {
		err = d.wait(ctx, c)
	}
	if err == nil {
		err = pause(ctx, connectTime)
	}
	var conn net.Conn
	if err == nil {
		conn, err = d.connect(c, v, &trace)
	}
	if err != nil {
		return nil, trace, fmt.Errorf("connecting to %s: %w", v.Address.Short(), err)
	}
	return conn, trace, nil
}

// reach returns the circuit of that name, or makes it.
func (d *Dialer) reach(ctx context.Context, v health.Visit, trace *health.Trace) (*circuit, error) {
	d.net.lock()
	defer d.net.mu.Unlock()
	d.counts.Dials++
	if !d.net.tor.running {
		return nil, errNoTor
	}
	name := circuitName{v.Address, v.Circuit}
	now := time.Now()
	maps.DeleteFunc(d.circuits, func(_ circuitName, c *circuit) bool { return !c.stands() || now.Sub(c.used) > circuitLife })
	if c := d.circuits[name]; c != nil {
		c.used = now
		trace.Stage = health.Introduced
		return c, nil
	}
	d.counts.Fresh++
	random := rand.New(rand.NewChaCha8(d.net.cfg.derive("visit", []byte(v.Address.Label()), timeBytes(now))))
	known := d.visitor(v.Address)
	known.clean(now)
	var intro introCircuit
	for {
		if d.net.tor.offline { // it builds no circuit
			return nil, d.unlocked(func() error { <-ctx.Done(); return fmt.Errorf("%w: %w", errOffline, ctx.Err()) })
		}
		trace.Stage = max(trace.Stage, health.NoPoint)
		a := d.attempt(v.Address, random, &intro, trace)
		var c *circuit
		if a.meeting == answered {
			c = &circuit{instance: a.instance, links: a.instance.links, life: d.net.tor.life}
			a.cost -= connectTime // that is Dial's
		}
		if paused := d.unlocked(func() error { return pause(ctx, a.fetching+a.cost) }); paused != nil {
			return nil, paused
		}
		switch {
		case a.err != nil:
			return nil, a.err
		case c != nil:
			trace.Stage = health.Introduced
			trace.Points[len(trace.Points)-1].Answered = true
			c.used = time.Now()
			d.circuits[name] = c
			return c, nil
		case a.meeting == silent:
			trace.Stage = health.Introduced
		case a.meeting == refused && !v.Patient:
			return nil, errUnknown
		}
	}
}

// attempt tries one introduction point. The trace has those that were told the key
// of their own, as the control port's events show no others.
func (d *Dialer) attempt(address descriptor.Address, random *rand.Rand, intro *introCircuit, trace *health.Trace) attempt {
	v := d.visitor(address)
	now := time.Now()
	v.read(now)
	v.random = random
	a := v.Client.attempt(now, intro)
	if a.point == nil || a.meeting == unreachable {
		return a
	}
	d.counts.Introductions++
	if !a.extended {
		trace.Points = append(trace.Points, health.PointResult{Relay: a.point.Relay(), Acknowledged: a.meeting != refused})
	}
	return a
}

// wait returns when what is asked over the circuit is answered: at once, unless
// the instance or our own tor does not move.
func (d *Dialer) wait(ctx context.Context, c *circuit) error {
	for {
		d.net.lock()
		stands, gate := c.stands(), c.gate()
		d.net.mu.Unlock()
		switch {
		case !stands:
			return errClosed
		case gate == nil:
			return nil
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
		}
	}
}

// connect opens a stream to the instance's application.
func (d *Dialer) connect(c *circuit, v health.Visit, trace *health.Trace) (net.Conn, error) {
	d.net.lock()
	defer d.net.mu.Unlock()
	if !c.stands() {
		return nil, errClosed
	}
	trace.Stage = health.Answered
	application := c.instance.application
	if application == nil {
		return nil, fmt.Errorf("port %d: %w", v.Port, ErrRefused)
	}
	trace.Stage = health.Connected
	return d.open(c, v.Port, application), nil
}

// stands says whether the circuit was not closed; if either end hangs, it is not.
func (c *circuit) stands() bool {
	i := c.instance
	return i.online && i.links == c.links && i.net.tor.running && i.net.tor.life == c.life && !i.net.agenda.closed
}

// gate is what the circuit waits for; nil if it works.
func (c *circuit) gate() chan struct{} {
	if g := c.instance.gate; g != nil {
		return g
	}
	return c.instance.net.tor.gate
}

// visitor is what the tor knows of a service.
func (d *Dialer) visitor(a descriptor.Address) *visitor {
	v := d.clients[a]
	if v == nil {
		v = &visitor{Client: &Client{net: d.net, address: a, view: &d.net.tor.view, started: time.Now()}}
		d.clients[a] = v
	}
	return v
}

// hear takes note of a descriptor that a controller had the tor fetch: tor puts it
// into the cache that visits use.
func (d *Dialer) hear(keys descriptor.PeriodKeys, body []byte) {
	if v := d.clients[keys.Address]; v != nil {
		v.fetched, v.fetchedKeys = body, keys
	}
}

// read reads what was heard.
func (v *visitor) read(now time.Time) {
	if v.fetched != nil {
		v.take(v.fetched, v.fetchedKeys, now)
		v.fetched = nil
	}
}

// drop ends the streams that which picks.
func (d *Dialer) drop(which func(*stream) bool) {
	for s := range d.streams {
		if which(s) {
			s.end()
		}
	}
}

// unlocked calls do without the network's lock.
func (d *Dialer) unlocked(do func() error) error {
	d.net.mu.Unlock()
	defer d.net.lock()
	return do()
}

// pause waits, and fails if ctx ends before or then.
func pause(ctx context.Context, d time.Duration) error {
	if deadline, ok := ctx.Deadline(); !ok || deadline.After(time.Now().Add(d)) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	return fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
}
