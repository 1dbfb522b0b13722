package socket

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// openFiles counts the file descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// connectMany connects count times, says what it is given, and reads nothing.
func connectMany(t *testing.T, path string, count int, says string) {
	t.Helper()
	for range count {
		conn, err := net.DialTimeout("unix", path, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		// One that was already ended says nothing any more.
		_, _ = io.WriteString(conn, says)
	}
}

// However many connect and then say nothing, say half a request, or ask and do
// not read the answer: who asks is answered at once, and the daemon holds few of
// them open.
func TestManyConnections(t *testing.T) {
	big := strings.Repeat("x", 300<<10) // more than a socket buffers
	for what, says := range map[string]string{
		"silent":        "",
		"half a word":   "GET /sta",
		"answer unread": "GET /status HTTP/1.1\r\nHost: b\r\n\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			path := shortPath(t)
			stop := serveHandler(t, path, 100*time.Millisecond, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, big) }))
			const count = 2 * maxConns
			before := openFiles(t)
			connectMany(t, path, count, says)
			got, err := get(t.Context(), path)
			if err != nil || got != big {
				t.Errorf("beside them: %v", err)
			}
			// Ours are count, of which both ends are in this process.
			if held := openFiles(t) - before - count; held > maxConns+8 {
				t.Errorf("the daemon holds %d of %d connections", held, count)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection that ended makes room: others are not ended for it.
func TestClosedConnections(t *testing.T) {
	path := shortPath(t)
	stop := serveText(t, path, "well")
	defer stop()
	patient, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	for range 3 * maxConns {
		if _, err := get(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(patient, "GET /status HTTP/1.1\r\nHost: b\r\n\r\n")
	if line, err := bufio.NewReader(patient).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Errorf("one who waited: %q, %v", line, err)
	}
}

// shortPath is of a socket: the test's own directory may be too long for one.
func shortPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "status")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

// More requests at a time than there are places are all answered: who is in flight is not
// ended for another, and who waits has its turn.
func TestBurst(t *testing.T) {
	path := shortPath(t)
	var inFlight atomic.Int32
	most := int32(0)
	var mu sync.Mutex
	stop := serveHandler(t, path, time.Minute, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := inFlight.Add(1)
		mu.Lock()
		most = max(most, now)
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		inFlight.Add(-1)
		_, _ = io.WriteString(w, "well")
	}))
	var group sync.WaitGroup
	for range 3 * maxConns {
		group.Go(func() {
			if got, err := get(t.Context(), path); err != nil || got != "well" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	group.Wait()
	if err := stop(); err != nil || most > maxConns {
		t.Errorf("%d at a time, %v", most, err)
	}
}

// A connection that is kept alive without a request makes room for others, and one that
// waits for its answer stays.
func TestIdleEndsFirst(t *testing.T) {
	path := shortPath(t)
	release := make(chan struct{})
	stop := serveHandler(t, path, time.Minute, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "well")
	}))
	dialed := func(says string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, says); err != nil {
			t.Fatal(err)
		}
		return conn, bufio.NewReader(conn)
	}
	answered := func(r *bufio.Reader) bool {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return err == nil && string(text) == "well"
	}
	_, slow := dialed("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n")
	for range 2 * maxConns {
		if _, kept := dialed("GET / HTTP/1.1\r\nHost: b\r\n\r\n"); !answered(kept) {
			t.Fatal("one that came with others idle is not answered")
		}
	}
	close(release)
	if !answered(slow) {
		t.Error("a request in flight was ended for others")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// When the daemon ends, handlers are told, and what they then say arrives.
func TestStopFinishesAnswers(t *testing.T) {
	path := shortPath(t)
	started := make(chan struct{})
	stop := serveHandler(t, path, time.Minute, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		_, _ = io.WriteString(w, "the end")
	}))
	got := make(chan string, 1)
	go func() {
		text, err := get(t.Context(), path)
		got <- fmt.Sprint(text, err)
	}()
	<-started
	if err := stop(); err != nil {
		t.Error(err)
	}
	if text := <-got; text != "the end<nil>" {
		t.Errorf("answered %q", text)
	}
}
