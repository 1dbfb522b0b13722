package standby

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"onionbalancer/internal/event"
)

func FuzzReadBeat(f *testing.F) {
	for _, line := range []string{saysFit, saysUnfit, "", "1 fit", "1 fit\n\n", "2 fit\n", "HTTP/1.1 400 Bad Request\r\n", strings.Repeat("1", 100)} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		in := bytes.NewReader(line)
		fit, err := ReadBeat(iotest.OneByteReader(in))
		switch {
		case err == nil && fit:
			if string(line) != saysFit {
				t.Errorf("%q is taken for fit", line)
			}
		case err == nil:
			if string(line) != saysUnfit {
				t.Errorf("%q is taken for unfit", line)
			}
		case !errors.Is(err, ErrNoBeat) && len(line) > 0 || string(line) == saysFit || string(line) == saysUnfit:
			t.Errorf("%q: %v", line, err)
		}
		if read := len(line) - in.Len(); read > longestBeat {
			t.Errorf("%d bytes were read", read)
		}
	})
}

// serveBeat serves a heartbeat on real sockets, and returns their addresses.
func serveBeat(t *testing.T, fit func() bool) (addresses []net.Addr) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", filepath.Join(t.TempDir(), "beat")}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, l.Addr())
		wait.Go(func() { ServeHeartbeat(ctx, l, fit) })
	}
	t.Cleanup(func() { cancel(); wait.Wait() })
	return addresses
}

func TestServeHeartbeat(t *testing.T) {
	var fit atomic.Bool
	fit.Store(true)
	for _, at := range serveBeat(t, fit.Load) {
		var idle []net.Conn // who connects and does nothing is in nobody's way
		for range 50 {
			conn, err := net.Dial(at.Network(), at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			idle = append(idle, conn)
		}
		for _, conn := range idle {
			if got, err := ReadBeat(conn); err != nil || got != fit.Load() {
				t.Errorf("%s: %t, %v, want %t", at.Network(), got, err, fit.Load())
			}
		}
		fit.Store(false)
		for end := time.Now().Add(time.Minute); ; time.Sleep(fitFor / 10) {
			conn, err := net.Dial(at.Network(), at.String())
			if err != nil {
				t.Fatal(err)
			}
			got, err := ReadBeat(conn)
			_ = conn.Close()
			if err == nil && !got {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: still %t, %v", at.Network(), got, err)
			}
		}
		fit.Store(true)
		time.Sleep(2 * fitFor)
	}
}

// scripted is an active machine whose heartbeat does as it is told.
type scripted struct {
	mu       sync.Mutex
	line     string
	err      error // of dialling
	mute     bool  // it accepts, and says nothing
	circuits []string
	events   []string
	changes  int
}

func (s *scripted) dial(ctx context.Context, circuit string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.circuits = append(s.circuits, circuit)
	if s.err != nil {
		return nil, s.err
	}
	ours, theirs := net.Pipe()
	if s.mute {
		context.AfterFunc(ctx, func() { _ = theirs.Close() })
		return ours, nil
	}
	line := s.line
	go func() {
		_, _ = io.WriteString(theirs, line)
		_ = theirs.Close()
	}()
	return ours, nil
}

func (s *scripted) set(line string, err error, mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line, s.err, s.mute = line, err, mute
}

func (s *scripted) taken() (events string, changes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, changes = strings.Join(s.events, "; "), s.changes
	s.events, s.changes = nil, 0
	return events, changes
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{line: saysFit}
		p := NewPulse(PulseConfig{
			Dial: s.dial, Changed: func() { s.mu.Lock(); s.changes++; s.mu.Unlock() },
			Record: func(e event.Event) { s.mu.Lock(); s.events = append(s.events, e.Text); s.mu.Unlock() },
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() { p.Run(ctx) })
		check := func(when string, pass time.Duration, fit, trouble bool, events string) {
			t.Helper()
			time.Sleep(pass)
			synctest.Wait()
			b := p.Beat()
			if heard := time.Since(b.Heard) <= DefaultTiming.Beat; b.Fit != fit && heard || heard == trouble || (p.Trouble() != nil) != trouble {
				t.Errorf("%s: fit %t, heard %s ago, trouble %v", when, b.Fit, time.Since(b.Heard), p.Trouble())
			}
			got, changes := s.taken()
			if got != events {
				t.Errorf("%s: events %q, want %q", when, got, events)
			}
			if (changes > 0) != (events != "") {
				t.Errorf("%s: %d changes told", when, changes)
			}
		}
		time.Sleep(time.Second)
		s.taken() // the first is a change too
		check("at first", 10*time.Minute, true, false, "")
		s.mu.Lock()
		if n := len(s.circuits); n < 9 || n > 13 || s.circuits[0] != s.circuits[n-1] {
			t.Errorf("asked by %q", s.circuits)
		}
		s.mu.Unlock()
		s.set("", io.ErrUnexpectedEOF, false)
		check("refused", 5*time.Minute, true, true, "no heartbeat of the active machine")
		s.mu.Lock()
		if n := len(s.circuits); s.circuits[n-1] == s.circuits[n-2] {
			t.Errorf("a circuit that failed was taken again: %q", s.circuits)
		}
		s.mu.Unlock()
		check("refused still", time.Hour, true, true, "")
		s.set(saysFit, nil, false)
		check("back", 3*time.Minute, true, false, "the heartbeat of the active machine is back")
		s.set(saysUnfit, nil, false)
		check("unfit", 3*time.Minute, false, false, "the active machine says that it cannot publish")
		s.set(saysFit, nil, false)
		check("fit again", 3*time.Minute, true, false, "the active machine says that it can publish again")
		s.set("", nil, true) // stopped: its kernel accepts
		check("mute", 6*time.Minute, true, true, "no heartbeat of the active machine")
		s.set("HTTP/1.1 200 OK\r\n\r\n", nil, false)
		check("something else", 3*time.Minute, true, true, "")
		if !errors.Is(p.Trouble(), ErrNoBeat) {
			t.Errorf("something else answers: %v", p.Trouble())
		}
		s.set(saysFit, nil, false)
		check("back again", 3*time.Minute, true, false, "the heartbeat of the active machine is back")
		cancel()
		wait.Wait()
	})
}

// A heartbeat from before a sleep is not heard now.
func TestBeatAges(t *testing.T) {
	now := time.Now()
	p := NewPulse(PulseConfig{Record: func(event.Event) {}, Now: func() time.Time { return now }})
	if b := p.Beat(); !b.Heard.IsZero() {
		t.Errorf("before any: %v", b)
	}
	p.note(true, nil)
	for _, later := range []time.Duration{time.Minute, 5 * time.Hour} {
		now = now.Add(later)
		p.beat.Heard = p.beat.Heard.Round(0) // as the monotonic clock stands still meanwhile
		if age := now.Round(0).Sub(p.Beat().Heard); age < later {
			t.Errorf("%s later it is %s old", later, age)
		}
	}
}
