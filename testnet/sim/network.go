package sim

import (
	"bytes"
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Network is a simulated Tor network. Its methods, and those of what belongs
// to it, may be called from any goroutine.
type Network struct {
	cfg    Config
	tor    *Tor
	others []*Tor // see AddTor
	dialer *Dialer

	mu        sync.Mutex // protects everything of the network, except connections' output
	agenda    agenda
	relays    []*Relay                          // those that are there now
	everyone  []*Relay                          // these, and those that left
	known     map[descriptor.Fingerprint]*Relay // everyone
	made      uint64                            // relays ever made
	churn     *rand.Rand
	votes     []*Consensus // the last few, oldest first
	paused    bool
	noRandom  bool
	instances []*Instance
	services  map[descriptor.Address]*Instance
	points    map[[32]byte]*introPoint // by authentication key, those that a descriptor contained
	clients   uint64
	decoder   descriptor.Decoder
	readings  map[reading]shared
	scratch   scratch
	keyring   keyring

	conns sync.WaitGroup // goroutines of control connections

	received func(Received) // see OnUpload; nil for nobody
	posted   func(Posted)   // see OnPost; nil for nobody
}

// scratch is what clients write to in the course of a visit, for thousands of them
// to cost little.
type scratch struct {
	relays []*Relay
	points []*descriptor.IntroductionPoint
}

// New starts a network at the present moment, as if it had run for long: with
// the consensuses of the last hours and two shared random values. Close it.
func New(cfg Config) *Network {
	n := &Network{
		cfg:      cfg.withDefaults(),
		services: make(map[descriptor.Address]*Instance),
		points:   make(map[[32]byte]*introPoint),
		known:    make(map[descriptor.Fingerprint]*Relay),
	}
	n.dialer = newDialer(n)
	n.agenda.wake = func() {
		n.lock()
		n.mu.Unlock()
	}
	n.churn = n.cfg.source("churn", 0)
	n.lock()
	defer n.mu.Unlock()
	for range n.cfg.Relays {
		n.addRelay()
	}
	n.sortRelays()
	interval := n.cfg.VotingInterval
	last := time.Unix(time.Now().Unix()/int64(interval/time.Second)*int64(interval/time.Second), 0).UTC()
	for age := keptVotes - 1; age >= 0; age-- {
		n.vote(last.Add(-time.Duration(age) * interval))
	}
	n.agenda.plan(last.Add(interval), n.voting)
	n.tor = n.newTor(n.cfg.Tor, 0)
	return n
}

// lock takes the network's lock and does everything that is due, so that a
// caller sees the network as it is at this moment, no matter who wakes first.
func (n *Network) lock() {
	n.mu.Lock()
	n.agenda.due()
}

// Close ends every connection and everything that was planned, and waits for the
// connections' goroutines.
func (n *Network) Close() {
	n.lock()
	n.agenda.close()
	for _, t := range append(n.others, n.tor) {
		t.dropAll()
	}
	n.dialer.drop(func(*stream) bool { return true })
	n.mu.Unlock()
	n.conns.Wait()
}

// Dial connects to the control port of the network's tor. It is made for
// control.Config.Dial.
func (n *Network) Dial(ctx context.Context) (net.Conn, error) { return n.tor.Dial(ctx) }

// Tor is the tor that Dial reaches.
func (n *Network) Tor() *Tor { return n.tor }

// AddTor adds another tor with a control port, that of another machine.
func (n *Network) AddTor(cfg TorConfig) *Tor {
	n.lock()
	defer n.mu.Unlock()
	if cfg.Version == "" {
		cfg.Version = n.cfg.Tor.Version
	}
	t := n.newTor(cfg, uint64(1+len(n.others)))
	n.others = append(n.others, t)
	return t
}

// Relays returns the relays that are part of the network now, in order of
// their fingerprints.
func (n *Network) Relays() []*Relay {
	n.lock()
	defer n.mu.Unlock()
	return slices.Clone(n.relays)
}

// Relay finds a relay, past or present, by its fingerprint in hex; nil if
// there never was one.
func (n *Network) Relay(fingerprint string) *Relay {
	n.lock()
	defer n.mu.Unlock()
	f, err := descriptor.ParseFingerprint(fingerprint)
	if err != nil {
		return nil
	}
	return n.known[f]
}

// Consensus is the newest consensus.
func (n *Network) Consensus() *Consensus {
	n.lock()
	defer n.mu.Unlock()
	return n.votes[len(n.votes)-1]
}

// Responsible returns the HSDirs to which a service with the newest consensus
// sends its first and its second descriptor, replica by replica.
func (n *Network) Responsible(a descriptor.Address) (first, second []*Relay, err error) {
	n.lock()
	defer n.mu.Unlock()
	c := n.votes[len(n.votes)-1]
	for _, slot := range []struct {
		ring *ring
		into *[]*Relay
	}{{c.first(), &first}, {c.second(), &second}} {
		keys, err := n.keyring.of(a, slot.ring.key.period)
		if err != nil {
			return nil, nil, err
		}
		*slot.into = slot.ring.store(&n.cfg, keys.Blinded)
	}
	return first, second, nil
}

// addRelay has a new relay join, at the next vote.
func (n *Network) addRelay() {
	r := n.newRelay(n.made)
	// The youngest lack the HSDir flag, which is why it is theirs to lack.
	r.hsdir = n.made >= uint64(n.cfg.WithoutHSDir)
	n.made++
	n.relays = append(n.relays, r)
	n.everyone = append(n.everyone, r)
	n.known[r.fingerprint] = r
}

func (n *Network) sortRelays() {
	slices.SortFunc(n.relays, func(a, b *Relay) int { return bytes.Compare(a.fingerprint[:], b.fingerprint[:]) })
}

// agenda is what will happen in the network, in order of time and, within the
// same moment, in the order in which it was planned: one timer for everything,
// so that a run can be repeated. Network.mu protects it.
type agenda struct {
	entries entries
	planned uint64
	timer   *time.Timer
	wake    func()
	closed  bool
}

type entry struct {
	at    time.Time
	order uint64
	run   func(now time.Time)
}

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].order < e[j].order
	}
	return e[i].at.Before(e[j].at)
}
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := len(*e) - 1
	popped := (*e)[last]
	(*e)[last] = entry{} // let go of the closure
	*e = (*e)[:last]
	return popped
}

// plan has run called at t, with Network.mu held.
func (a *agenda) plan(t time.Time, run func(now time.Time)) {
	if a.closed {
		return
	}
	a.planned++
	heap.Push(&a.entries, entry{at: t, order: a.planned, run: run})
	if a.entries[0].order == a.planned {
		a.arm()
	}
}

// due runs everything planned for now or before.
func (a *agenda) due() {
	ran := false
	for now := time.Now(); !a.closed && len(a.entries) > 0 && !a.entries[0].at.After(now); ran = true {
		heap.Pop(&a.entries).(entry).run(now)
	}
	if ran {
		a.arm()
	}
}

func (a *agenda) arm() {
	if a.closed || len(a.entries) == 0 {
		return
	}
	wait := time.Until(a.entries[0].at)
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.wake)
		return
	}
	a.timer.Reset(wait)
}

func (a *agenda) close() {
	a.closed = true
	a.entries = nil
	if a.timer != nil {
		a.timer.Stop()
	}
}
