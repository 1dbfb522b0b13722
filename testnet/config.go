// Package testnet runs private Tor networks of real tor processes on the
// loopback interface: directory authorities, relays, clients and onion
// services, each with a directory of its own.
//
// A network is made for tests and demonstrations. It keeps tor's testing
// timetable ([Config.VotingInterval] and what follows from it), lets no
// traffic leave the machine, and needs no privileges. Nothing outlives the
// process that started it: every tor holds one end of a socket pair whose
// other end is ours, and leaves as soon as that closes, be it by
// [Network.Stop], by a panic or by kill -9.
//
// The usual way through the package:
//
//	net, err := testnet.Start(ctx, testnet.Config{Clients: []string{"c1"}})
//	defer net.Stop()
//	web, err := net.Service(ctx, testnet.ServiceConfig{Name: "web"})
//	err = web.Published(ctx)
//	body, err := net.Client("c1").Get(ctx, "user1", web.URL("/"))
package testnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Config describes a network. Its zero value is valid.
type Config struct {
	// Dir holds a directory for each tor. By default a new temporary one is
	// made, and Stop removes it; a directory that is given stays.
	Dir string

	Authorities int // 3 to 9; with fewer there is no measured bandwidth; default 3
	Relays      int // besides the authorities; default DefaultRelays

	// VotingInterval is the time from one consensus to the next, default
	// DefaultVotingInterval. A time period and a shared random run are 24
	// intervals each. Tor accepts no less than 10 s; and only multiples of
	// 5 s that divide half an hour give periods of whole minutes, in which
	// tor counts.
	VotingInterval time.Duration

	ConsensusParams []string // "name=value", which the authorities vote for

	// Clients are the names of the tors that Client and ControlTarget find.
	// They are started together with the network, which is faster than
	// afterwards.
	Clients []string

	// FirstGroup, if not 0, has each client and each service's tor run under a group
	// of its own, numbered from it, by which a packet filter can tell them apart:
	// see Group. That takes root.
	FirstGroup uint32

	ClientOptions []string // further torrc lines of clients, "Name value"

	// LogLevel is what the tors write to their output.log, as in torrc's Log;
	// default "notice". "[rend]info notice" tells of onion services in detail.
	LogLevel string

	TorBinary string         // default "tor", looked up in PATH; tor-gencert likewise, beside it
	Progress  func(Progress) // called from one goroutine, about twice a second while the network starts
}

// Defaults of Config.
const (
	DefaultAuthorities    = 3
	DefaultRelays         = 14
	DefaultVotingInterval = 10 * time.Second
)

// Votes are given, and consensuses signed, within these bounds; tor accepts no
// shorter ones, and a quick machine needs no longer ones.
const (
	minDelay = 2 * time.Second
	maxDelay = 5 * time.Second
)

// Validate fills in defaults, and reports invalid values.
func (c *Config) Validate() error {
	if c.Authorities == 0 {
		c.Authorities = DefaultAuthorities
	}
	if c.Relays == 0 {
		c.Relays = DefaultRelays
	}
	if c.VotingInterval == 0 {
		c.VotingInterval = DefaultVotingInterval
	}
	if c.TorBinary == "" {
		c.TorBinary = "tor"
	}
	if c.LogLevel == "" {
		c.LogLevel = "notice"
	}
	v := c.VotingInterval
	switch {
	case c.Authorities < 3 || c.Authorities > 9:
		return fmt.Errorf("a network has 3 to 9 authorities, not %d", c.Authorities)
	case c.Relays < 3 || c.Relays > 100:
		return fmt.Errorf("a network has 3 to 100 relays, not %d", c.Relays)
	case v < 10*time.Second || v > 30*time.Minute || v%(5*time.Second) != 0 || 30*time.Minute%v != 0:
		return fmt.Errorf("a voting interval of %v is none that tor takes: it must be 10s or more, a multiple of 5s, and divide 30m", v)
	}
	return nil
}

// host is the address of everything. It is this one because connections within
// 127.0.0.0/8 come from it whatever one asks tor for, and a relay thinks little
// of a connection that comes from another address than its peer's descriptor
// says: it makes a second one.
const host = "127.0.0.1"

// Ports are chosen below those that systems give to outgoing connections, in blocks
// of which each belongs to one network, so that a port that was found free stays
// free. Holding it with a listener until tor starts would do more harm than good: each
// process that is started meanwhile has the listener too for a moment, until it has
// become another program.
const (
	lowestPort  = 10_000
	highestPort = 32_000
	portBlock   = 100
)

// portPool hands out ports, each once.
type portPool struct {
	mu        sync.Mutex
	claims    []net.Listener // on the first port of each block, so that no other network takes it
	next, end int            // what is left of the last block
}

// reserve finds a free port; the result is "host:port".
func (b *portPool) reserve() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.next == b.end {
			if err := b.claim(); err != nil {
				return "", fmt.Errorf("finding a free port: %w", err)
			}
		}
		l, err := listenOn(b.next)
		b.next++
		if err == nil { // else another program has it
			return l.Addr().String(), l.Close()
		}
	}
}

// claim takes a block that no network has. The caller holds b.mu.
func (b *portPool) claim() (err error) {
	for _, n := range rand.Perm((highestPort - lowestPort) / portBlock) {
		first := lowestPort + n*portBlock
		var l net.Listener
		if l, err = listenOn(first); err == nil {
			b.claims, b.next, b.end = append(b.claims, l), first+1, first+portBlock
			return nil
		}
	}
	return err
}

// release lets other networks have the ports.
func (b *portPool) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.claims {
		l.Close()
	}
	b.claims, b.next, b.end = nil, 0, 0
}

func listenOn(port int) (net.Listener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(host), Port: port})
}
