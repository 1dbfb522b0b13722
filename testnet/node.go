package testnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/cretz/bine/control"
)

// node is one tor of the network over its whole life, in which it may be
// killed and started again.
type node struct {
	net  *Network
	name string
	dir  string // its DataDirectory, with torrc and output.log

	mu        sync.Mutex
	process   *process
	ending    bool            // we are ending it: its leaving is no surprise
	bootstrap int             // percent, as tor last reported
	uploads   map[string]uint // descriptors confirmed by an HSDir since the start, by address without .onion
}

// newNode makes the directory of a node, without what an earlier network may
// have left there.
func (n *Network) newNode(name string) (*node, error) {
	select {
	case <-n.stopped:
		return nil, ErrStopped
	default:
	}
	dir := filepath.Join(n.dir, name)
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("making the directory of tor %q: %w", name, err)
	}
	return &node{net: n, name: name, dir: dir}, nil
}

// start runs the node's tor, which must not be running.
func (d *node) start(ctx context.Context) error {
	d.mu.Lock()
	d.ending, d.bootstrap, d.uploads = false, 0, map[string]uint{}
	d.mu.Unlock()
	p, err := startProcess(ctx, d.net.config.TorBinary, d.name, d.dir, d.onEvent)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.process = p
	d.mu.Unlock()
	if !d.net.adopt(d, p) {
		p.kill()
		return fmt.Errorf("starting tor %q: %w", d.name, ErrStopped)
	}
	return nil
}

// onEvent keeps what the node's tor reports of itself.
func (d *node) onEvent(event control.Event) {
	d.mu.Lock()
	switch e := event.(type) {
	case *control.StatusEvent:
		if percent, err := strconv.Atoi(e.Arguments["PROGRESS"]); err == nil && e.Action == "BOOTSTRAP" {
			d.bootstrap = percent
		}
	case *control.HSDescEvent:
		if e.Action == "UPLOADED" {
			d.uploads[e.Address]++
		}
	}
	d.mu.Unlock()
	d.net.changed.notify()
}

// bootstrapped is how far tor has come, in percent.
func (d *node) bootstrapped() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bootstrap
}

// uploaded is how often an HSDir has confirmed a descriptor of the service.
func (d *node) uploaded(address string) uint {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.uploads[address]
}

// current is the node's process, nil before the first start.
func (d *node) current() *process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// PID is the process number of the node's tor, 0 when it does not run.
func (d *node) PID() int {
	if p := d.current(); p != nil && p.running() {
		return p.pid()
	}
	return 0
}

// reload has tor read its torrc again, and fetch at once what it lacks of the
// directory.
func (d *node) reload() {
	if p := d.current(); p != nil && p.running() {
		p.cmd.Process.Signal(syscall.SIGHUP)
	}
}

// end ends the node's tor, by kill -9 when hard is set, and returns when the
// relays have heard of it.
func (d *node) end(hard bool) {
	d.mu.Lock()
	d.ending = true
	p := d.process
	d.mu.Unlock()
	if p == nil {
		return
	}
	if hard {
		p.kill()
	} else {
		p.stop()
	}
	<-p.settled
}

// crashed reports a tor that left by itself.
func (d *node) crashed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending || d.process == nil || d.process.running() {
		return nil
	}
	return fmt.Errorf("tor %q ended by itself: %w\n%s", d.name, d.process.err, logTail(d.dir))
}

// logTail is the end of what tor has said, for error messages.
func logTail(dir string) []byte {
	log, err := os.ReadFile(filepath.Join(dir, "output.log"))
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimRight(log, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-logTailLines):], []byte("\n"))
}

const logTailLines = 12
