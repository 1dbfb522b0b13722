package testnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cretz/bine/control"
)

// node is one tor of the network over its whole life, in which it may be
// killed and started again.
type node struct {
	net  *Network
	name string
	dir  string // its DataDirectory, with torrc and output.log

	group uint32 // that its tor runs under; 0: ours

	mu        sync.Mutex
	process   *process
	ending    bool // we are ending it: its leaving is no surprise
	bootstrap int  // percent, as tor last reported
	// Of descriptors since the start, by address without .onion:
	uploads map[string]uint     // confirmed by an HSDir
	asked   map[string][]string // HSDirs that were asked, in order
	fetched map[string]uint     // answers to that, with a descriptor or without
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
	d.bootstrap, d.uploads, d.asked, d.fetched = 0, map[string]uint{}, map[string][]string{}, map[string]uint{}
	d.mu.Unlock()
	p, err := startProcess(ctx, d.net.config.TorBinary, d.name, d.dir, d.group, d.onEvent)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.process, d.ending = p, false // until now it was the one before, which was ended
	d.mu.Unlock()
	if !d.net.adopt(d, p) {
		p.kill()
		return fmt.Errorf("starting tor %q: %w", d.name, ErrStopped)
	}
	return nil
}

// onEvent records the reports of the node's tor.
func (d *node) onEvent(event control.Event) {
	d.mu.Lock()
	switch e := event.(type) {
	case *control.StatusEvent:
		if percent, err := strconv.Atoi(e.Arguments["PROGRESS"]); err == nil && e.Action == "BOOTSTRAP" {
			d.bootstrap = percent
		}
	case *control.HSDescEvent:
		switch e.Action {
		case "UPLOADED":
			d.uploads[e.Address]++
		case "REQUESTED":
			hsdir, _, _ := strings.Cut(strings.TrimPrefix(e.HSDir, "$"), "~")
			d.asked[e.Address] = append(d.asked[e.Address], hsdir)
		case "RECEIVED", "FAILED":
			d.fetched[e.Address]++
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

// logTail is the end of tor's log, for error messages.
func logTail(dir string) []byte {
	log, err := os.ReadFile(filepath.Join(dir, "output.log"))
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimRight(log, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-logTailLines):], []byte("\n"))
}

const logTailLines = 12

// torrc gathers the lines of one tor's configuration.
type torrc struct{ lines strings.Builder }

// set adds one line. Tor reads a quoted value as it stands, blanks included.
func (t *torrc) set(key string, value any) {
	fmt.Fprintf(&t.lines, "%s %v\n", key, value)
}

// path adds a line whose value is a file name.
func (t *torrc) path(key, name string) { t.set(key, `"`+name+`"`) }

// options adds lines, "Name value".
func (t *torrc) options(lines []string) {
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		t.set(key, value)
	}
}

// write replaces dir/torrc.
func (t *torrc) write(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "torrc"), []byte(t.lines.String()), 0o600); err != nil {
		return fmt.Errorf("writing a torrc: %w", err)
	}
	return nil
}

// seconds prints a duration as tor reads it.
func seconds(d time.Duration) string { return fmt.Sprintf("%d seconds", int(d/time.Second)) }

// common is what every tor of the network has: who the authorities are, and
// that time is short.
func (n *Network) common(dir string) *torrc {
	t := new(torrc)
	t.set("TestingTorNetwork", 1)
	t.path("DataDirectory", dir)
	t.set("Log", n.config.LogLevel+" stdout")
	t.set("SafeLogging", 0)
	t.set("NumCPUs", 1)
	t.set("ShutdownWaitLength", 0)
	t.set("AvoidDiskWrites", 1)
	// Countries mean nothing here, and reading them takes time and memory.
	t.path("GeoIPFile", filepath.Join(n.dir, "nowhere"))
	t.path("GeoIPv6File", filepath.Join(n.dir, "nowhere"))
	for _, a := range n.authorities {
		t.set("DirAuthority", fmt.Sprintf("%s orport=%s v3ident=%s %s %s",
			a.name, port(a.orPort), a.v3ident, a.dirPort, a.fingerprint))
	}
	return t
}

// relaying adds the common options of authorities and relays. No relay is an
// exit: nothing leaves the machine.
func (n *Network) relaying(t *torrc, name, orPort string) {
	t.set("Nickname", name)
	t.set("Address", host)
	t.set("ORPort", orPort+" IPv4Only")
	t.set("AssumeReachable", 1)
	t.set("ExitRelay", 0)
	t.set("ContactInfo", "testnet")
	t.set("SocksPort", 0)
}

// authorityConfig is the torrc of an authority. Consensuses are due at the
// multiples of the voting interval, moved by offset.
func (n *Network) authorityConfig(a *authority, offset time.Duration) *torrc {
	t := n.common(a.dir)
	n.relaying(t, a.name, a.orPort)
	t.set("AuthoritativeDirectory", 1)
	t.set("V3AuthoritativeDirectory", 1)
	t.set("DirPort", a.dirPort+" IPv4Only")
	// Every relay is all it can be from the first vote on.
	t.set("TestingDirAuthVoteGuard", "*")
	t.set("TestingDirAuthVoteHSDir", "*")
	t.set("MinUptimeHidServDirectoryV2", "0 seconds")
	t.path("V3BandwidthsFile", n.bandwidths())
	interval := n.config.VotingInterval
	delay := n.votingDelay()
	t.set("V3AuthVotingInterval", seconds(interval))
	t.set("V3AuthVoteDelay", seconds(delay))
	t.set("V3AuthDistDelay", seconds(delay))
	t.set("TestingV3AuthInitialVotingInterval", seconds(interval))
	t.set("TestingV3AuthInitialVoteDelay", seconds(delay))
	t.set("TestingV3AuthInitialDistDelay", seconds(delay))
	t.set("TestingV3AuthVotingStartOffset", seconds(offset))
	// One authority that is late with its vote must not cost the network its
	// shared random value; by default all of three have to agree.
	parameters := append([]string{"AuthDirNumSRVAgreements=2"}, n.config.ConsensusParams...)
	t.set("ConsensusParams", strings.Join(parameters, " "))
	return t
}

// bandwidths is the file of the authorities' measurements.
func (n *Network) bandwidths() string { return filepath.Join(n.dir, "bandwidths") }

// relayConfig is the torrc of a relay.
func (n *Network) relayConfig(r *relay) *torrc {
	t := n.common(r.dir)
	n.relaying(t, r.name, r.orPort)
	return t
}

// clientConfig is the torrc of a tor that only builds circuits: a client, a
// manager, or the tor of services.
func (n *Network) clientConfig(dir, socksPort, controlPort string) *torrc {
	t := n.common(dir)
	if socksPort == "" {
		socksPort = "0"
	}
	t.set("SocksPort", socksPort)
	t.set("ControlPort", controlPort)
	t.set("CookieAuthentication", 1)
	// A consensus is fetched soon after it was made. With testing timetables
	// clients would otherwise be up to two voting intervals behind.
	t.set("FetchDirInfoEarly", 1)
	t.set("FetchDirInfoExtraEarly", 1)
	// Tor learns how long circuits may take, and on a network as quick as this
	// one learns it so tightly that a short hiccup makes it start again, with a
	// minute.
	t.set("LearnCircuitBuildTimeout", 0)
	t.set("CircuitBuildTimeout", 3)
	return t
}

// port is the part of "host:port" behind the colon.
func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
