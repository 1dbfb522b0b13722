package logging

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testNote(lost int, why error) []byte { return fmt.Appendf(nil, "missing %d: %v\n", lost, why) }

// gate is a writer that is stuck, fails or works, as told.
type gate struct {
	stuck chan struct{} // Write waits until it is closed, if not nil
	err   error
	part  int // bytes that are written before the error
	text  strings.Builder
}

func (g *gate) Write(p []byte) (int, error) {
	if g.stuck != nil {
		<-g.stuck
	}
	if g.err != nil {
		n, _ := g.text.Write(p[:min(g.part, len(p))])
		return n, g.err
	}
	return g.text.Write(p)
}

func say(t *testing.T, w io.Writer, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format+"\n", args...)
	if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}

// A writer that returns only after a day holds nobody up. The first lines and the
// last ones arrive, and between them it is said how many do not.
func TestQueueStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{stuck: make(chan struct{})}
		q := NewQueue(g, testNote)
		began := time.Now()
		const count = 100_000
		for n := range count {
			say(t, q, "line %6d %s", n, strings.Repeat("x", 50))
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("those who log waited %v", took)
		}
		if err := q.Trouble(); !errors.Is(err, errUnread) {
			t.Errorf("while stuck: %v", err)
		}
		if held := q.size; held > maxWaiting {
			t.Errorf("%d bytes are held", held)
		}
		time.Sleep(24 * time.Hour)
		close(g.stuck)
		synctest.Wait()
		say(t, q, "later")
		q.Close(time.Second)
		got := strings.Split(strings.TrimSpace(g.text.String()), "\n")
		written := len(got) - 2
		if written < 1000 || !strings.HasPrefix(got[written-1], fmt.Sprintf("line %6d", written-1)) {
			t.Fatalf("%d lines, the last of them %q", written, got[written-1])
		}
		if want := fmt.Sprintf("missing %d: its reader is blocked", count-written); got[written] != want || got[written+1] != "later" {
			t.Errorf("afterwards %q, want %q and what was said later", got[written:], want)
		}
		if err := q.Trouble(); err != nil {
			t.Errorf("when all is well again: %v", err)
		}
	})
}

// Close does not wait for a writer that is stuck.
func TestQueueCloseStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{stuck: make(chan struct{})}
		q := NewQueue(g, testNote)
		say(t, q, "never read")
		began := time.Now()
		q.Close(2 * time.Second)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("closing took %v", took)
		}
		say(t, q, "too late")
		close(g.stuck)
	})
}

// A disk that is full takes the beginning of a line, then nothing, then all
// again: each line stands on its own, and what is missing is counted.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		g := &gate{}
		q := NewQueue(g, testNote)
		say(t, q, "one")
		synctest.Wait()
		g.err, g.part = full, 3
		say(t, q, "two is torn")
		synctest.Wait()
		g.part = 0
		say(t, q, "three")
		synctest.Wait()
		if err := q.Trouble(); !errors.Is(err, full) {
			t.Errorf("on a full disk: %v", err)
		}
		g.err = nil
		say(t, q, "four")
		q.Close(time.Second)
		if got, want := g.text.String(), "one\ntwo\nmissing 2: no space left on device\nfour\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// The same with what the system has: a pipe that nobody has open any more, and a
// device that is always full.
func TestQueueClosedAndFull(t *testing.T) {
	reader, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for what, file := range map[string]*os.File{"broken pipe": closed, "no space left": full} {
		q := NewQueue(file, testNote)
		for n := range 100 {
			say(t, q, "line %d", n)
		}
		q.Close(time.Minute)
		if err := q.Trouble(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
