package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrStopped is returned by the methods of a network after Stop.
var ErrStopped = errors.New("the network has been stopped")

// authority and relay are nodes with what others have to know of them.
type authority struct {
	*node
	orPort, dirPort string
	fingerprint     string // of the relay's RSA key, 40 hex digits
	v3ident         string // of the key that certifies the voting key, likewise
}

type relay struct {
	*node
	orPort      string
	fingerprint string
}

// Network is a running private Tor network. Its methods can be called from any
// goroutine.
type Network struct {
	config  Config
	gencert string
	dir     string
	ownDir  bool // made by us: Stop removes it
	ports   portPool
	began   time.Time

	authorities []*authority
	relays      []*relay
	complete    time.Time // valid-after of the first consensus with all relays; set by Start

	changed  broadcast
	stopped  chan struct{}
	stopOnce sync.Once
	stopErr  error

	background sync.WaitGroup // goroutines that run until stopped is closed
	murmuring  sync.Mutex     // held while relays are made to talk
	passing    sync.Mutex     // held while they pass news on
	passed     time.Time      // when that last began

	mu       sync.Mutex
	grouped  uint32  // groups given away
	nodes    []*node // that were ever started
	clients  map[string]*Client
	services []*Service
}

// newNetwork prepares everything that needs no process.
func newNetwork(config Config) (*Network, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	var err error
	n := &Network{
		config: config, began: time.Now(), stopped: make(chan struct{}), clients: map[string]*Client{},
	}
	if n.config.TorBinary, err = exec.LookPath(config.TorBinary); err != nil {
		return nil, fmt.Errorf("finding tor (Debian package tor): %w", err)
	}
	n.gencert = filepath.Join(filepath.Dir(n.config.TorBinary), "tor-gencert")
	if _, err := os.Stat(n.gencert); err != nil {
		if n.gencert, err = exec.LookPath("tor-gencert"); err != nil {
			return nil, fmt.Errorf("finding tor-gencert (Debian package tor): %w", err)
		}
	}
	n.dir = config.Dir
	if n.dir == "" {
		n.ownDir = true
		if n.dir, err = os.MkdirTemp("", "testnet-"); err != nil {
			return nil, fmt.Errorf("making the network's directory: %w", err)
		}
	}
	if n.dir, err = filepath.Abs(n.dir); err != nil {
		return nil, err
	}
	return n, nil
}

// Dir is the directory that holds those of the tors.
func (n *Network) Dir() string { return n.dir }

// PIDs are the process numbers of all tors that run.
func (n *Network) PIDs() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pids []int
	for _, d := range n.nodes {
		if pid := d.PID(); pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// adopt takes a started tor into the care of Stop, unless that has been called.
func (n *Network) adopt(d *node, p *process) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.stopped:
		return false
	default:
	}
	known := false
	for _, other := range n.nodes {
		known = known || other == d
	}
	if !known {
		n.nodes = append(n.nodes, d)
	}
	n.background.Go(func() {
		<-p.exited
		n.changed.notify()
		n.passOn()
		close(p.settled)
	})
	return true
}

// nextGroup is a group that no other tor runs under; 0 if they all run under ours.
func (n *Network) nextGroup() uint32 {
	if n.config.FirstGroup == 0 {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.grouped++
	return n.config.FirstGroup + n.grouped - 1
}

// crashed reports the first tor that ended without being told to.
func (n *Network) crashed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.nodes {
		if err := d.crashed(); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends every tor and backend, and waits until they are gone. It can be
// called again, and at any time.
func (n *Network) Stop() error {
	n.stopOnce.Do(func() {
		n.mu.Lock()
		close(n.stopped)
		nodes, services := n.nodes, n.services
		n.mu.Unlock()
		var wg sync.WaitGroup
		for _, d := range nodes {
			wg.Go(func() { d.end(false) })
		}
		wg.Wait()
		n.background.Wait()
		for _, s := range services {
			s.backend.close(closeGrace)
		}
		n.ports.release()
		if n.ownDir {
			n.stopErr = os.RemoveAll(n.dir)
		}
	})
	return n.stopErr
}

// Start makes a network and waits until it can be used: every relay is in the
// consensus, and every client of the configuration has a circuit.
func Start(ctx context.Context, config Config) (*Network, error) {
	for attempt := 1; ; attempt++ {
		n, err := newNetwork(config)
		if err != nil {
			return nil, fmt.Errorf("starting a test network: %w", err)
		}
		if err = n.launch(ctx); err == nil {
			return n, nil
		}
		n.Stop()
		if !errors.Is(err, errPortTaken) || attempt == 3 {
			return nil, fmt.Errorf("starting a test network: %w", err)
		}
	}
}

// launch starts everything in the order that is quickest: authorities, so that
// relays find them at once; relays; clients while the votes are given. Each
// step waits for the effects of the step before, not for time to pass.
func (n *Network) launch(ctx context.Context) error {
	if err := n.makeNodes(); err != nil {
		return err
	}
	stopProgress := n.showProgress(ctx)
	defer stopProgress()
	if err := n.makeKeys(ctx); err != nil {
		return err
	}
	farAway := n.votingOffset(time.Now().Add(-time.Second))
	if err := n.startAll(ctx, len(n.authorities), func(i int) (*node, *torrc) {
		a := n.authorities[i]
		return a.node, n.authorityConfig(a, farAway)
	}); err != nil {
		return err
	}
	if err := n.startAll(ctx, len(n.relays), func(i int) (*node, *torrc) {
		r := n.relays[i]
		return r.node, n.relayConfig(r)
	}); err != nil {
		return err
	}
	clients := make([]*Client, len(n.config.Clients))
	for i, name := range n.config.Clients {
		var err error
		if clients[i], err = n.newClient(name); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.Go(func() error { return n.firstConsensus(ctx) })
	group.Go(func() error {
		return n.startAll(ctx, len(clients), func(i int) (*node, *torrc) {
			return clients[i].node, clients[i].torrc()
		})
	})
	if err := group.Wait(); err != nil {
		return err
	}
	// Anyone who failed to get a consensus waits longer and longer; now that
	// there is one, they need not.
	for _, r := range n.relays {
		r.reload()
	}
	for _, c := range clients {
		c.reload()
	}
	for _, c := range clients {
		if err := c.ready(ctx); err != nil {
			return err
		}
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.background.Go(func() {
		<-n.stopped
		cancel()
	})
	n.background.Go(func() { n.followRotations(background) })
	return nil
}

// startAll writes the configurations of count nodes and starts them, a few at
// a time.
func (n *Network) startAll(ctx context.Context, count int, what func(int) (*node, *torrc)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.NumCPU())
	for i := range count {
		d, config := what(i)
		group.Go(func() error {
			if err := config.write(d.dir); err != nil {
				return err
			}
			return d.start(ctx)
		})
	}
	return group.Wait()
}

// firstConsensus has the authorities vote as soon as they know every relay,
// and waits for the consensus.
func (n *Network) firstConsensus(ctx context.Context) error {
	if err := n.until(ctx, 50*time.Millisecond, func() (bool, error) { return n.allDescribed(ctx), nil }); err != nil {
		return fmt.Errorf("waiting for the relays' descriptors: %w", err)
	}
	// A timetable that has led to a consensus already, on a busy machine, is
	// not moved: that would make one voting interval shorter than others.
	if _, err := n.Consensus(ctx); err != nil {
		const settle = time.Second // for the authorities to read their torrc again
		offset := n.votingOffset(time.Now().Add(2*n.votingDelay() + settle))
		for _, a := range n.authorities {
			if err := n.authorityConfig(a, offset).write(a.dir); err != nil {
				return err
			}
			a.reload()
		}
	}
	want := len(n.authorities) + len(n.relays)
	if err := n.until(ctx, 100*time.Millisecond, func() (bool, error) {
		c, err := n.Consensus(ctx)
		if err != nil || c.Relays < want {
			return false, nil
		}
		n.complete = c.ValidAfter
		return true, nil
	}); err != nil {
		return fmt.Errorf("waiting for a consensus of %d relays: %w", want, err)
	}
	return nil
}

// votingOffset is how far the timetable of votes has to be moved for a
// consensus to be due then.
func (n *Network) votingOffset(due time.Time) time.Duration {
	return time.Duration(due.Unix()%int64(n.config.VotingInterval/time.Second)) * time.Second
}

// votingDelay is how long votes, and then signatures, may take to arrive.
func (n *Network) votingDelay() time.Duration {
	return max(minDelay, min(n.config.VotingInterval/5, maxDelay)).Truncate(time.Second)
}

// allDescribed says whether every authority has every router's descriptor.
func (n *Network) allDescribed(ctx context.Context) bool {
	for _, a := range n.authorities {
		all, err := fetchDirectory(ctx, a.dirPort, "/tor/server/all")
		if err != nil || bytes.Count(all, []byte("\nrouter-signature\n")) < len(n.authorities)+len(n.relays) {
			return false
		}
	}
	return true
}

// makeNodes chooses ports, and makes directories.
func (n *Network) makeNodes() error {
	for i := range n.config.Authorities + n.config.Relays {
		orPort, err := n.ports.reserve()
		if err != nil {
			return err
		}
		if i >= n.config.Authorities {
			d, err := n.newNode(fmt.Sprintf("relay%02d", i-n.config.Authorities+1))
			if err != nil {
				return err
			}
			n.relays = append(n.relays, &relay{node: d, orPort: orPort})
			continue
		}
		dirPort, err := n.ports.reserve()
		if err != nil {
			return err
		}
		d, err := n.newNode(fmt.Sprintf("auth%d", i+1))
		if err != nil {
			return err
		}
		n.authorities = append(n.authorities, &authority{node: d, orPort: orPort, dirPort: dirPort})
	}
	return nil
}

// makeKeys makes the keys that others are told of before their owner runs.
func (n *Network) makeKeys(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, a := range n.authorities {
		group.Go(func() (err error) {
			a.v3ident, err = makeVotingKeys(ctx, n.gencert, a.dir, a.dirPort)
			return err
		})
		group.Go(func() (err error) {
			a.fingerprint, err = makeRelayKey(a.dir)
			return err
		})
	}
	for _, r := range n.relays {
		group.Go(func() (err error) {
			r.fingerprint, err = makeRelayKey(r.dir)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all []string
	for _, a := range n.authorities {
		all = append(all, a.fingerprint)
	}
	for _, r := range n.relays {
		all = append(all, r.fingerprint)
	}
	for _, a := range n.authorities {
		if err := writeStability(a.dir, time.Now(), all); err != nil {
			return err
		}
	}
	return writeBandwidths(n.bandwidths(), time.Now(), all)
}

// Progress is how far a network has come while it starts.
type Progress struct {
	Elapsed   time.Duration
	Running   int  // tors that have been started
	Consensus bool // whether there is one yet
	Relays    int  // in the consensus
	Wanted    int  // relays, authorities included, that shall be in it
	Clients   int  // mean bootstrap of the clients, in percent
}

// String is the state as one short line.
func (p Progress) String() string {
	consensus := "no consensus yet"
	if p.Consensus {
		consensus = fmt.Sprintf("consensus with %d of %d relays", p.Relays, p.Wanted)
	}
	return fmt.Sprintf("%3.0f s  %d tors started, %s, clients at %d %%", p.Elapsed.Seconds(), p.Running, consensus, p.Clients)
}

// showProgress reports until the function that it returns is called.
func (n *Network) showProgress(ctx context.Context) func() {
	if n.config.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				n.config.Progress(n.progress(ctx))
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		n.config.Progress(n.progress(context.WithoutCancel(ctx)))
	}
}

// progress looks at the network as it is now.
func (n *Network) progress(ctx context.Context) Progress {
	p := Progress{
		Elapsed: time.Since(n.began),
		Running: len(n.PIDs()),
		Wanted:  n.config.Authorities + n.config.Relays,
	}
	if c, err := n.Consensus(ctx); err == nil {
		p.Consensus, p.Relays = true, c.Relays
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.clients {
		p.Clients += c.bootstrapped()
	}
	if len(n.clients) > 0 {
		p.Clients /= len(n.clients)
	}
	return p
}
