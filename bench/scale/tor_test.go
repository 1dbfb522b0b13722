package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/descriptor"
	"onionbalancer/testnet/sim"
)

// network is what the tors of a run reach: the relays, the consensus and the
// instances of a simulated network, and HSDirs that keep what is posted in a file
// that nobody maps, so that it is in no process's memory.
type network struct {
	sim  *sim.Network
	file *os.File
	cpu  atomic.Int64 // nanoseconds that the network's own work took

	mu        sync.Mutex // protects what follows
	instances map[string]bool
	stored    map[place]int32                  // where in the file, in units of roomInFile
	blinded   map[string]descriptor.PeriodKeys // by label, of the period asked for last
	relays    map[string]*sim.Relay            // by fingerprint, those asked before
	end       int32                            // of the file
	counts    counts
}

// place is a descriptor at an HSDir: parts of its blinded key and of the HSDir's
// fingerprint, which are enough to tell the descriptors of a run apart.
type place [2]uint32

// stored is what precedes a descriptor in the file.
type stored struct{ Size, Revision, Received uint64 } // in bytes; counter; in seconds

const headSize = 24

// counts is what tors were asked for so far.
type counts struct {
	posts, rejected    int
	fetches, readbacks int // of instances, and of services' own descriptors
}

const (
	roomInFile = 64 << 10 // for one descriptor; what is not written takes no disk
	kept       = 3 * time.Hour
	latency    = 2 * time.Second // of an HSDir, and at least half of it
)

func newNetwork(t *testing.T, n *sim.Network) *network {
	file, err := os.CreateTemp(t.TempDir(), "hsdirs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &network{sim: n, file: file, instances: map[string]bool{}, stored: map[place]int32{}, blinded: map[string]descriptor.PeriodKeys{}, relays: map[string]*sim.Relay{}}
}

// own runs f, which does not block, and counts its processor time as the
// network's.
func (n *network) own(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	f()
	n.cpu.Add(threadTime() - before)
}

func threadTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("scale: " + err.Error())
	}
	return t.Nano()
}

// dial connects to the control port of a tor of its own.
func (n *network) dial(events *conn) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		c := &conn{net: n, raw: ours, tor: events}
		c.more.L = &c.mu
		go c.write()
		go c.read()
		return theirs, nil
	}
}

// conn is a tor's end of a control connection.
type conn struct {
	net *network
	raw net.Conn
	tor *conn // whose events go to the connection that asked for them

	mu     sync.Mutex
	more   sync.Cond
	out    []byte
	closed bool
	events *conn // of a tor
}

func (c *conn) send(text string) { c.sendDocument(text, nil, "") }

// sendDocument sends a line, a document and what ends it.
func (c *conn) sendDocument(line string, body []byte, end string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(append(append(c.out, line...), body...), end...)
	c.more.Signal()
}

func (c *conn) write() {
	var out []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.closed {
			c.more.Wait()
		}
		out, c.out = c.out, out[:0]
		if cap(out) > roomInFile { // it sent a consensus
			c.out = nil
		}
		closed := c.closed
		c.mu.Unlock()
		if _, err := c.raw.Write(out); err != nil || closed {
			return
		}
	}
}

func (c *conn) read() {
	defer func() {
		c.mu.Lock()
		c.closed = true
		c.more.Signal()
		c.mu.Unlock()
		_ = c.raw.Close()
	}()
	in := bufio.NewReaderSize(c.raw, 64<<10)
	var body []byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		body = body[:0]
		for line[0] == '+' {
			more, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			if string(more) == ".\r\n" {
				break
			}
			body = append(body, more...)
		}
		c.net.own(func() { c.serve(strings.Fields(line), body) })
	}
}

// event sends an event of the tor to who asked for events: a line, a document and
// what ends it.
func (c *conn) event(line string, body []byte, end string) {
	c.tor.mu.Lock()
	to := c.tor.events
	c.tor.mu.Unlock()
	if to != nil {
		to.sendDocument(line, body, end)
	}
}

// serve acts on one command.
func (c *conn) serve(words []string, body []byte) {
	switch words[0] {
	case "PROTOCOLINFO":
		c.send("250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n")
	case "SETEVENTS":
		c.tor.mu.Lock()
		c.tor.events = c
		c.tor.mu.Unlock()
		c.send("250 OK\r\n")
	case "GETCONF":
		c.send("250 " + words[1] + "=0\r\n")
	case "GETINFO":
		c.send(c.net.info(words[1]))
	case "HSFETCH":
		c.send("250 OK\r\n")
		c.fetch(words[1], server(words))
	case "+HSPOST":
		c.send("250 OK\r\n")
		c.post(words, body)
	default:
		c.send("250 OK\r\n")
	}
}

// server is the value of the argument SERVER, without "$".
func server(words []string) string {
	for _, w := range words {
		if s, ok := strings.CutPrefix(w, "SERVER=$"); ok {
			return s
		}
	}
	return ""
}

func (n *network) info(key string) string {
	c := n.sim.Consensus()
	switch key {
	case "dir/status-vote/current/consensus-microdesc":
		return "250+" + key + "=\r\n" + dotted(c.Text()) + "250 OK\r\n"
	case "md/all":
		return "250+" + key + "=\r\n" + dotted(c.Microdescs()) + "250 OK\r\n"
	case "consensus/valid-after":
		return "250-" + key + "=" + c.ValidAfter.Format(time.DateTime) + "\r\n250 OK\r\n"
	case "consensus/valid-until":
		return "250-" + key + "=" + c.ValidUntil.Format(time.DateTime) + "\r\n250 OK\r\n"
	case "status/bootstrap-phase":
		return "250-" + key + "=NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Done\"\r\n250 OK\r\n"
	}
	return "250-" + key + "=\r\n250 OK\r\n"
}

// dotted is a document as the control protocol carries it. No line of the network's
// documents begins with a dot.
func dotted(text []byte) string {
	return strings.ReplaceAll(string(text), "\n", "\r\n") + ".\r\n"
}

// later runs f when an HSDir has answered.
func (c *conn) later(seed byte, f func()) {
	time.AfterFunc(latency/2+time.Duration(seed)*latency/512, func() { c.net.own(f) })
}

// post has an HSDir keep a descriptor, if its revision counter is higher. body is
// as the control protocol carries it.
func (c *conn) post(words []string, body []byte) {
	hsdir := server(words)
	label, _ := strings.CutPrefix(words[2], "HSADDRESS=")
	at, revision, err := parse(body, hsdir)
	if err != nil {
		panic("scale: " + err.Error())
	}
	result := "UPLOADED " + label + " UNKNOWN $" + hsdir + "~relay"
	if !c.net.keep(at, revision, body) {
		result = "FAILED " + label + " NO_AUTH $" + hsdir + "~relay REASON=UPLOAD_REJECTED"
	}
	c.later(byte(at[0]), func() { c.event("650 HS_DESC "+result+"\r\n", nil, "") })
}

func (s stored) kept(now time.Time) bool {
	return now.Unix()-int64(s.Received) < int64(kept.Seconds())
}

// head reads what precedes a descriptor.
func (n *network) head(at int32) (s stored) {
	var raw [headSize]byte
	_, err := n.file.ReadAt(raw[:], int64(at)*roomInFile)
	if err == nil {
		_, err = binary.Decode(raw[:], binary.LittleEndian, &s)
	}
	if err != nil {
		panic("scale: " + err.Error())
	}
	return s
}

func (n *network) keep(at place, revision uint64, body []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.posts++
	now := time.Now()
	where, known := n.stored[at]
	if known {
		if s := n.head(where); revision <= s.Revision && s.kept(now) {
			n.counts.rejected++
			return false
		}
	} else {
		where = n.end
		n.stored[at] = where
		n.end++
	}
	raw, err := binary.Append((*bodies.Get().(*[]byte))[:0], binary.LittleEndian, stored{uint64(len(body)), revision, uint64(now.Unix())})
	raw = append(raw, body...)
	if err == nil {
		_, err = n.file.WriteAt(raw, int64(where)*roomInFile)
	}
	if err != nil {
		panic("scale: " + err.Error())
	}
	bodies.Put(&raw)
	return true
}

func placeOf(blinded []byte, hsdir string) place {
	relay, _ := strconv.ParseUint(hsdir[:8], 16, 32)
	return place{binary.LittleEndian.Uint32(blinded), uint32(relay)}
}

// parse reads the blinded key, which is in the certificate, and the revision
// counter.
func parse(body []byte, hsdir string) (at place, revision uint64, err error) {
	_, rest, _ := bytes.Cut(body, []byte("-----BEGIN ED25519 CERT-----\r\n"))
	text, rest, _ := bytes.Cut(rest, []byte("-----END"))
	var cert [192]byte
	n, err := base64.StdEncoding.Decode(cert[:], text) // which skips line ends
	if err != nil || n < 76 {
		return at, 0, fmt.Errorf("a certificate of %d bytes: %w", n, err)
	}
	at = placeOf(cert[44:76], hsdir)
	_, rest, _ = bytes.Cut(rest, []byte("\nrevision-counter "))
	number, _, _ := bytes.Cut(rest, []byte("\r\n"))
	revision, err = strconv.ParseUint(string(number), 10, 64)
	return at, revision, err
}

// fetch has an HSDir say what it has for an address in the current period.
func (c *conn) fetch(label, hsdir string) {
	n := c.net
	body, blinded := n.find(label, hsdir)
	id := base64.RawStdEncoding.EncodeToString(blinded[:])
	name := "$" + hsdir + "~relay"
	c.later(blinded[0], func() {
		if body == nil {
			c.event("650 HS_DESC FAILED "+label+" NO_AUTH "+name+" "+id+" REASON=NOT_FOUND\r\n", nil, "")
			c.event("650+HS_DESC_CONTENT "+label+" "+id+" "+name+"\r\n", nil, "\r\n.\r\n650 OK\r\n")
			return
		}
		c.event("650 HS_DESC RECEIVED "+label+" NO_AUTH "+name+" "+id+"\r\n", nil, "")
		c.event("650+HS_DESC_CONTENT "+label+" "+id+" "+name+"\r\n", body, ".\r\n650 OK\r\n")
		bodies.Put(&body)
	})
}

// bodies has memory for descriptors that an HSDir sends.
var bodies = sync.Pool{New: func() any { b := make([]byte, roomInFile); return &b }}

func (n *network) find(label, hsdir string) (body []byte, blinded [32]byte) {
	period := n.sim.Consensus().Period()
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := n.blinded[label]
	if keys.Period != period {
		address, err := descriptor.ParseAddress(label)
		if err == nil {
			keys, err = address.Keys(period)
		}
		if err != nil {
			panic("scale: " + err.Error())
		}
		n.blinded[label] = keys
	}
	if n.instances[label] {
		n.counts.fetches++
		if r := n.relay(hsdir); r != nil {
			text, _ := r.Stored(keys.Blinded)
			if text == nil {
				return nil, keys.Blinded
			}
			body = append((*bodies.Get().(*[]byte))[:0], bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))...)
		}
		return body, keys.Blinded
	}
	n.counts.readbacks++
	at := placeOf(keys.Blinded[:], hsdir)
	where, ok := n.stored[at]
	if !ok {
		return nil, keys.Blinded
	}
	if s := n.head(where); s.kept(time.Now()) {
		body = (*bodies.Get().(*[]byte))[:s.Size]
		if _, err := n.file.ReadAt(body, int64(where)*roomInFile+headSize); err != nil {
			panic("scale: " + err.Error())
		}
	}
	return body, keys.Blinded
}

// relay finds a relay by its fingerprint. The caller holds n.mu.
func (n *network) relay(fingerprint string) *sim.Relay {
	if n.relays[fingerprint] == nil {
		n.relays[fingerprint] = n.sim.Relay(fingerprint)
	}
	return n.relays[fingerprint]
}

func (n *network) snapshot() counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}
