package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// ErrStopped is what the methods of a network say after Stop.
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

	changed  broadcast
	stopped  chan struct{}
	stopOnce sync.Once
	stopErr  error

	background sync.WaitGroup // what runs until stopped is closed
	murmuring  sync.Mutex     // held while relays are made to talk

	mu       sync.Mutex
	nodes    []*node // that were ever started
	clients  map[string]*Client
	services []*Service
}

// newNetwork prepares what needs no process.
func newNetwork(config Config) (*Network, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	var err error
	n := &Network{
		config: config, began: time.Now(), stopped: make(chan struct{}),
		clients: map[string]*Client{}, ports: portPool{given: map[string]bool{}},
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
			s.backend.close()
		}
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
