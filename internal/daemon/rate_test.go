package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
)

// silentTor is a tor that takes all uploads, of which nothing is heard any more.
type silentTor struct {
	taken atomic.Int64

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func (s *silentTor) dial(context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return nil, errors.New("nobody listens")
	}
	ours, theirs := net.Pipe()
	s.conns = append(s.conns, ours)
	go func() {
		defer ours.Close()
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			reply := "250 OK"
			switch word, rest, _ := strings.Cut(lines.Text(), " "); {
			case word == "PROTOCOLINFO":
				reply = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK"
			case rest == "consensus/valid-until":
				reply = "250-" + rest + "=" + time.Now().UTC().Add(3*time.Hour).Format(time.DateTime) + "\r\n250 OK"
			case word == "GETINFO":
				reply = "250-" + rest + "=\r\n250 OK"
			case word == "+HSPOST":
				for lines.Scan() && lines.Text() != "." {
				}
				s.taken.Add(1)
			}
			if _, err := fmt.Fprintf(ours, "%s\r\n", reply); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

func (s *silentTor) setDead(dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = dead
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// Tors that serve upload as much more as those would that do not, and no more once these
// are back.
func TestShareRate(t *testing.T) {
	store, err := state.Open(t.TempDir(), state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	synctest.Test(t, func(t *testing.T) {
		fakes := []*silentTor{{}, {}, {}}
		var list []*tor.Tor
		for n, f := range fakes {
			list = append(list, tor.New(fmt.Sprintf("tor-%d", n+1), control.New(control.Config{Dial: f.dial, MaxBackoff: time.Second})))
		}
		rooms := NewRooms(tor.NewPool(list...), nil, store, nil, func(event.Event) {}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() { rooms.Run(ctx, func() {}) })
		defer wait.Wait()
		defer cancel()
		defer rooms.Close()
		queue, number := rooms.queues[list[0]], 0
		// taken returns how many uploads the first tor takes in 16 seconds after a burst. Not
		// more than 64 are in flight at once.
		taken := func() int64 {
			slots := make([]hsdir.Slot, 100)
			for n := range slots {
				slots[n].HSDir = [20]byte{byte(n), 1}
			}
			number++
			u := hsdir.Upload{Address: descriptor.Address{byte(number)}, Slots: slots}
			u.Body = func(context.Context, hsdir.Slot) ([]byte, error) { return []byte("hs-descriptor 3\n"), nil }
			queue.Upload(u)
			time.Sleep(time.Second)
			before := fakes[0].taken.Load()
			time.Sleep(16 * time.Second)
			after := fakes[0].taken.Load()
			queue.Cancel(u.Address)
			time.Sleep(2 * time.Minute) // those in flight end
			return after - before
		}
		want := func(when string, n int64) {
			t.Helper()
			if got := taken(); got < n-1 || got > n+1 {
				t.Errorf("%s: %d uploads in 16 seconds, want %d", when, got, n)
			}
		}
		time.Sleep(time.Minute)
		want("all serve", 16)
		fakes[1].setDead(true)
		time.Sleep(10 * time.Minute)
		want("one of three does not", 24)
		fakes[2].setDead(true)
		time.Sleep(10 * time.Minute)
		want("two do not", 48)
		fakes[1].setDead(false)
		fakes[2].setDead(false)
		time.Sleep(time.Hour)
		want("all are back", 16)
	})
}
