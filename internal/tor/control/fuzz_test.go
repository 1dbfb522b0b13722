package control

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
)

// said is a connection on which text comes, and then its end.
type said struct {
	net.Conn
	io.Reader
}

func (s said) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (said) Write(p []byte) (int, error)      { return len(p), nil }
func (said) SetDeadline(time.Time) error      { return nil }
func (said) SetWriteDeadline(time.Time) error { return nil }

// FuzzGreeting: whatever listens in tor's place, what it says becomes an error of
// one printable line, or a way to authenticate.
func FuzzGreeting(f *testing.F) {
	f.Add([]byte("250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"/run/tor/\\303\\251\"\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n"))
	f.Add([]byte("HTTP/1.0 501 Tor is not an HTTP Proxy\r\n\r\n"))
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1\r\n"))
	f.Add([]byte("\x15\x03\x01\x00\x02\x02\x0a"))
	f.Add([]byte("510 Command filtered\r\n"))
	f.Add([]byte("250+x\r\n\x1b[2J\r\n.\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := newConn(said{Reader: bytes.NewReader(text)}, time.Second)
		lines, err := l.greet(time.Second)
		var info protocolInfo
		if err == nil {
			info, err = parseProtocolInfo(lines)
		}
		if err == nil {
			if len(info.methods) == 0 || !onePrintableLine(info.version) {
				t.Errorf("%q: %+v", text, info)
			}
			return
		}
		if !onePrintableLine(err.Error()) {
			t.Errorf("%q: %q", text, err)
		}
	})
}

func onePrintableLine(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// readInfo reads a reply to GETINFO.
func readInfo(r *bufio.Reader, key string, limit int64, expect int) ([]byte, error) {
	reply, err := readReply(r, limit, expect)
	if err != nil {
		return nil, err
	}
	return reply.info(key)
}

// A consensus of the size of the public network's, read the way GetInfo does
// when it has read one before.
func BenchmarkDocument(b *testing.B) {
	document := strings.Repeat("r relay AAAAAAAAAAAAAAAAAAAAAAAAAAA 2038-01-01 00:00:00 127.0.0.1 9001 0\n"+
		"m AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"+
		"s Fast Guard HSDir Running Stable V2Dir Valid\n", 16000)
	wire := "250+k=\r\n" + stuff([]byte(document)) + "250 OK\r\n"
	b.SetBytes(int64(len(document)))
	b.ReportAllocs()
	for b.Loop() {
		value, err := readInfo(bufio.NewReader(strings.NewReader(wire)), "k", 1<<30, len(document))
		if err != nil || len(value) != len(document) {
			b.Fatal(len(value), err)
		}
	}
}
