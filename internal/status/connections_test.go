package status

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
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
	big := Snapshot{Version: strings.Repeat("x", 300<<10)} // more than a socket buffers
	for what, says := range map[string]string{
		"silent":        "",
		"half a word":   "GET /sta",
		"status unread": "GET /status HTTP/1.1\r\nHost: b\r\n\r\n",
		"metrics":       "GET /metrics HTTP/1.1\r\nHost: b\r\n\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			path := shortPath(t)
			stop := serveSnapshot(t, path, big)
			const count = 5 * maxConns
			before := openFiles(t)
			connectMany(t, path, count, says)
			got, err := Query(t.Context(), path)
			if err != nil || got.Version != big.Version {
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
	stop := serveSnapshot(t, path, Snapshot{PID: 7})
	defer stop()
	patient, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	for range 3 * maxConns {
		if _, err := Query(t.Context(), path); err != nil {
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
	return filepath.Join(dir, SocketName)
}
