package tor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/tor/control"
)

// fakeTor answers on a control port what it is told to.
type fakeTor struct {
	mu    sync.Mutex
	down  bool
	mute  bool              // no HSDir answers uploads
	info  map[string]string // GETINFO, by key; absent: tor refuses it
	conns map[*fakeConn]struct{}
	keys  map[string]string // client keys, by address: the rest of the command that gave it
}

type fakeConn struct {
	net.Conn
	events bool
}

var errDown = errors.New("connection refused")

func (f *fakeTor) dial(context.Context) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if f.keys == nil {
		f.keys = map[string]string{}
	}
	ours, theirs := net.Pipe()
	c := &fakeConn{Conn: ours}
	if f.conns == nil {
		f.conns = map[*fakeConn]struct{}{}
	}
	f.conns[c] = struct{}{}
	go f.serve(c)
	return theirs, nil
}

func (f *fakeTor) serve(c *fakeConn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		reply := "250 OK"
		f.mu.Lock()
		switch word {
		case "PROTOCOLINFO":
			reply = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK"
		case "SETEVENTS":
			c.events = true
		case "+HSPOST":
			for lines.Scan() && lines.Text() != "." {
			}
			words := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '=' || r == '$' }) // SERVER, HSDir, HSADDRESS, address
			if !f.mute {
				f.tell(fmt.Sprintf("HS_DESC UPLOADED %s UNKNOWN $%s~relay", words[3], words[1]))
			}
		case "ONION_CLIENT_AUTH_VIEW":
			if key, ok := f.keys[rest]; ok {
				reply = fmt.Sprintf("250-CLIENT %s %s\r\n250 OK", rest, key)
			}
		case "ONION_CLIENT_AUTH_ADD":
			address, key, _ := strings.Cut(rest, " ")
			f.keys[address] = key
		case "ONION_CLIENT_AUTH_REMOVE":
			delete(f.keys, rest)
		case "GETINFO":
			reply = "552 Unrecognized key"
			if value, ok := f.info[rest]; ok {
				reply = fmt.Sprintf("250+%s=\r\n%s.\r\n250 OK", rest, value)
			}
		}
		f.mu.Unlock()
		if _, err := fmt.Fprintf(c, "%s\r\n", reply); err != nil {
			return
		}
	}
}

// set changes an answer, and tells of it by a new consensus.
func (f *fakeTor) set(key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.info == nil {
		f.info = map[string]string{}
	}
	if value == "" {
		delete(f.info, key)
	} else {
		f.info[key] = value + "\r\n"
	}
	f.tell("STATUS_CLIENT NOTICE CONSENSUS_ARRIVED")
}

// tell sends an event.
func (f *fakeTor) tell(event string) {
	for c := range f.conns {
		if c.events {
			fmt.Fprintf(c, "650 %s\r\n", event)
		}
	}
}

// setMute has HSDirs answer no uploads any more, or again.
func (f *fakeTor) setMute(mute bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mute = mute
}

// setDown ends the tor, or has it come back.
func (f *fakeTor) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
	if down {
		for c := range f.conns {
			c.Close()
		}
		clear(f.conns)
	}
}

const infoExpiry = "consensus/valid-until"

// setConsensus gives the tor a consensus that expires after d.
func (f *fakeTor) setConsensus(d time.Duration) {
	f.set(infoExpiry, time.Now().Add(d).UTC().Format(time.DateTime))
}

// run runs a pool of fake tors for the rest of a synctest bubble, with a year's
// consensus each.
func run(t *testing.T, cfg control.Config, fakes ...*fakeTor) *Pool {
	t.Helper()
	record := func(event.Event) {}
	if cfg.Log != nil {
		record = event.Log(cfg.Log, nil)
	}
	var tors []*Tor
	for i, f := range fakes {
		f.setConsensus(365 * 24 * time.Hour)
		cfg.Dial = f.dial
		tors = append(tors, New(fmt.Sprintf("fake-%d", i+1), control.New(cfg)))
	}
	p := NewPool(tors...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx, record) }()
	t.Cleanup(func() { cancel(); <-done; p.Close() })
	return p
}

// addresses are n addresses that no key belongs to.
func addresses(n int) []descriptor.Address {
	list := make([]descriptor.Address, n)
	for i := range list {
		list[i][0], list[i][1] = byte(i), byte(i>>8)
	}
	return list
}

// assigned is the tor of each address.
func assigned(p *Pool, list []descriptor.Address) map[descriptor.Address]*Tor {
	m := map[descriptor.Address]*Tor{}
	for _, a := range list {
		m[a] = p.For(a)
	}
	return m
}
