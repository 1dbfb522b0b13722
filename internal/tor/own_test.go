package tor

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"onionbalancer/internal/event"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// isolated keeps a tor on this machine, with its ports open: its only directory
// authority is a port that nobody listens on.
const isolated = `DirAuthority none orport=1 no-v2 v3ident=1111111111111111111111111111111111111111 127.0.0.1:1 2222222222222222222222222222222222222222
UseDefaultFallbackDirs 0
`

// ownTors opens and runs a pool of two tors of our own. With broken, a file, each
// start of the second fails once the file is there.
func ownTors(t *testing.T, broken string, times times) (p *Pool, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pool") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	torrc := filepath.Join(dir, "torrc")
	program := filepath.Join(dir, "program")
	script := fmt.Sprintf("#!/bin/sh\ncase $PWD in */tor-2) [ -e '%s' ] && exit 3;; esac\nexec tor \"$@\"\n", broken)
	if err := os.WriteFile(torrc, []byte(isolated), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err = Open(t.Context(), Config{Own: Own{Dir: dir, Count: 2, Binary: program, Torrc: torrc}})
	if err != nil {
		t.Fatal(err)
	}
	p.times = times
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx, func(event.Event) {}) }()
	t.Cleanup(func() { cancel(); <-done; p.Close() })
	for _, tor := range p.Tors() {
		if err := tor.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return p, dir
}

// TestTwoOfOurOwn: each has a directory, a control port and a SOCKS port of its
// own, which others cannot reach; a command finds the first; none is left.
func TestTwoOfOurOwn(t *testing.T) {
	p, dir := ownTors(t, "", defaultTimes)
	pids := map[string]bool{}
	for i, tor := range p.Tors() {
		name := []string{"tor", "tor-2"}[i]
		if tor.Name() != name || !tor.Own() {
			t.Errorf("tor %d: %q", i, tor.Name())
		}
		pid, err := tor.Client().GetInfo(t.Context(), "process/pid")
		if err != nil || pids[string(pid)] {
			t.Errorf("%s: process %s, %v", name, pid, err)
		}
		pids[string(pid)] = true
		network, address, err := tor.Socks(t.Context())
		if err != nil || network != "unix" || filepath.Dir(address) != filepath.Join(dir, name) {
			t.Fatalf("%s: SOCKS at %s %s, %v", name, network, address, err)
		}
		for path, mode := range map[string]fs.FileMode{filepath.Dir(address): 0o700, address: 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
		told, err := tor.Client().Listeners(t.Context(), "socks")
		if err != nil || strings.Join(told, " ") != "unix:"+address {
			t.Errorf("%s listens on %q, %v", name, told, err)
		}
		if got := socksRefusal(t, address); got != 0x02 {
			t.Errorf("%s: the answer for an address outside of onion space is %#x", name, got)
		}
	}
	borrowed, err := Borrow(t.Context(), Config{Own: Own{Dir: dir, Count: 2, Binary: "/bin/false"}})
	if err != nil {
		t.Fatal(err)
	}
	defer borrowed.Close()
	if got, want := "unix:"+borrowed.Tors()[0].Name(), "unix:"+p.Statuses()[0].Socket; got != want || len(borrowed.Tors()) != 1 {
		t.Errorf("a command uses %s, want %s", got, want)
	}
}

// socksRefusal asks a SOCKS port for an address that is no onion address, and
// returns the code of its answer: 2, not allowed by ruleset.
func socksRefusal(t *testing.T, socket string) byte {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	const host = "host.invalid"
	request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host+"\x00\x50"...)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	var reply [4]byte // two of the method, two of the answer
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		t.Fatal(err)
	}
	return reply[3]
}

// TestDyingTorMovesItsServices: one of our own that does not come back.
func TestDyingTorMovesItsServices(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	p, _ := ownTors(t, broken, times{look: 10 * time.Millisecond, grace: 100 * time.Millisecond, settle: 200 * time.Millisecond, poll: time.Second})
	list := addresses(20)
	eventually := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never: %s: %+v", what, p.Statuses())
			}
		}
	}
	uses := func() map[*Tor]bool {
		used := map[*Tor]bool{}
		for _, tor := range assigned(p, list) {
			used[tor] = true
		}
		return used
	}
	// Both without a consensus, so both serve in the end.
	eventually("both serve", func() bool { return len(uses()) == 2 })
	second := p.Tors()[1]
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(second.own.State().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually("the first has all services", func() bool { return !uses()[second] })
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	eventually("the second is back", func() bool { return uses()[second] })
	if s := p.Statuses()[1]; s.Restarts == 0 || !s.Serving {
		t.Errorf("status %+v", s)
	}
}

// TestOneDoesNotStart: then none is left.
func TestOneDoesNotStart(t *testing.T) {
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "tor-2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	torrc := filepath.Join(dir, "torrc")
	if err := os.WriteFile(torrc, []byte(isolated), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), Config{Own: Own{Dir: dir, Count: 2, Torrc: torrc}})
	if err == nil {
		p.Close()
		t.Fatal("opened")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tor", "control*")); len(left) > 0 || !strings.Contains(err.Error(), "tor-2") {
		t.Errorf("left %q, %v", left, err)
	}
}
