package sim

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Tor is a tor process with a control port, on a network. Its methods may be
// called from any goroutine.
type Tor struct {
	net     *Network
	cfg     TorConfig
	view    view
	conns   map[*conn]bool
	faults  ControlFaults
	running bool
	offline bool
	gate    chan struct{} // closed when the tor is online again; nil while it is
	life    int           // outdates what was planned before a restart
	asked   map[question]time.Time
	pending map[descriptor.Address]int               // fetches under way
	cached  map[descriptor.Address]descriptor.Period // of the descriptor in tor's cache
	counts  Counts
	mangled map[string]mangling // the next reply to a command
}

// question is a fetch that tor chose an HSDir for, which it does not repeat
// within Config.Requery.
type question struct {
	relay   *Relay
	blinded descriptor.BlindedPublicKey
}

// Counts is how often a tor was asked to do what costs the network.
type Counts struct {
	// Fetches and Posts count HSFETCH and HSPOST by the HSDirs they named.
	Fetches, Posts int
	// Stored and Rejected count the answers to the posts.
	Stored, Rejected int
	// Connections counts authenticated control connections.
	Connections int
}

// ErrRefused is what dialling a tor that is down gives.
var ErrRefused = errors.New("sim: connection refused")

func (n *Network) newTor(cfg TorConfig, number uint64) *Tor {
	t := &Tor{net: n, cfg: cfg, conns: make(map[*conn]bool), running: true,
		asked: make(map[question]time.Time), pending: make(map[descriptor.Address]int),
		cached: make(map[descriptor.Address]descriptor.Period)}
	t.view = view{net: n, random: n.cfg.source("tor", number), delay: cfg.ConsensusDelay, arrived: t.consensusArrived}
	if cfg.Bootstrap > 0 {
		n.agenda.plan(time.Now().Add(cfg.Bootstrap), t.view.fetch)
	} else {
		t.view.follow(time.Now())
	}
	return t
}

// Dial connects to the control port. The connection is one end of a net.Pipe.
func (t *Tor) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	if !t.serve(ours) {
		return nil, ErrRefused
	}
	return theirs, nil
}

// Serve has the control port answer whoever connects to l, which other processes can, until
// l is closed. Not for virtual time.
func (t *Tor) Serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !t.serve(c) {
			c.Close()
		}
	}
}

// serve reports whether the control port takes a connection.
func (t *Tor) serve(c net.Conn) bool {
	t.net.lock()
	defer t.net.mu.Unlock()
	if !t.running || t.faults.Refuse || t.net.agenda.closed {
		return false
	}
	newConn(t, c)
	return true
}

// Counts is what controllers have had the tor do so far.
func (t *Tor) Counts() Counts {
	t.net.lock()
	defer t.net.mu.Unlock()
	return t.counts
}

// FreezeConsensus has the tor get no new consensus, while set: what it has goes
// stale.
func (t *Tor) FreezeConsensus(frozen bool) {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.view.stopped = frozen
}

// SetOffline cuts the tor off the network, while set, without its noticing:
// nothing that controllers or visitors have it do gets an answer.
func (t *Tor) SetOffline(offline bool) {
	t.net.lock()
	defer t.net.mu.Unlock()
	if t.offline == offline {
		return
	}
	t.offline, t.view.stopped = offline, offline
	if offline {
		t.gate = make(chan struct{})
	} else {
		close(t.gate)
		t.gate = nil
	}
}

// LoseConsensus takes the consensus away, as when its file is deleted, until
// RegainConsensus.
func (t *Tor) LoseConsensus() {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.view.reset()
}

// RegainConsensus gives the tor the newest consensus at once, and says so to
// its controllers.
func (t *Tor) RegainConsensus() {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.view.fetch(time.Now())
}

// Restart ends the tor: connections drop, and what was under way is lost. It
// accepts connections again after down, and has no consensus for another
// bootstrap.
func (t *Tor) Restart(down, bootstrap time.Duration) {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.running = false
	t.life++
	life := t.life
	t.dropAll()
	t.net.dialer.drop(func(*stream) bool { return true })
	t.view.reset()
	clear(t.asked)
	clear(t.pending)
	clear(t.cached)
	now := time.Now()
	t.net.agenda.plan(now.Add(down), func(time.Time) { t.running = t.running || t.life == life })
	t.net.agenda.plan(now.Add(down+bootstrap), func(now time.Time) {
		if t.life == life {
			t.view.fetch(now)
		}
	})
}

// Consensus is the consensus the tor has; nil if it has none.
func (t *Tor) Consensus() *Consensus {
	t.net.lock()
	defer t.net.mu.Unlock()
	return t.view.consensus
}

// consensusArrived tells controllers.
func (t *Tor) consensusArrived(time.Time) {
	t.event("STATUS_CLIENT", "650 STATUS_CLIENT NOTICE CONSENSUS_ARRIVED\r\n")
}

// ControlFaults is what is wrong with a tor's control port. The zero value is
// one that works.
type ControlFaults struct {
	// Refuse: nobody can connect.
	Refuse bool
	// Mute: commands get no answer, though connections stay; the answers never
	// come.
	Mute bool
	// LoseEvents: no event is sent.
	LoseEvents bool
	// Trusting: fetched descriptors are handed over as they are. tor decodes
	// and verifies them first, and says BAD_DESC if they are not in order.
	Trusting bool
}

// SetFaults replaces what is wrong with the control port.
func (t *Tor) SetFaults(f ControlFaults) {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.faults = f
}

func (t *Tor) dropAll() {
	for c := range t.conns {
		c.drop()
	}
}

// mangling is what becomes of one reply.
type mangling struct {
	cut     bool
	after   int
	garbage []byte
}

// CutReply has the connection drop in the middle of the next reply to a
// command of this name ("HSFETCH", "+HSPOST"): after this many bytes of it.
func (t *Tor) CutReply(command string, after int) {
	t.mangle(command, mangling{cut: true, after: after})
}

// GarbleReply has the next reply to a command of this name replaced by bytes
// that are no reply.
func (t *Tor) GarbleReply(command string, garbage []byte) {
	t.mangle(command, mangling{garbage: garbage})
}

func (t *Tor) mangle(command string, m mangling) {
	t.net.lock()
	defer t.net.mu.Unlock()
	if t.mangled == nil {
		t.mangled = make(map[string]mangling)
	}
	t.mangled[strings.ToUpper(command)] = m
}
