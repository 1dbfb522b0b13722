package control

import (
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
		l := newLink(said{Reader: bytes.NewReader(text)}, time.Second)
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

// FuzzEvent: an event is read or refused, and what is read has the form that the
// rest goes by.
func FuzzEvent(f *testing.F) {
	f.Add("STATUS_GENERAL WARN CLOCK_SKEW SKEW=-18000 SOURCE=CONSENSUS", "")
	f.Add(`STATUS_CLIENT WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="x" WARNING="y \"z\"" REASON=NOROUTE RECOMMENDATION=warn`, "")
	f.Add("HS_DESC FAILED "+addressA+" NO_AUTH $"+hsdir1+"~relay REASON=NOT_FOUND", "")
	f.Add("HS_DESC_CONTENT "+addressA+" x $"+hsdir1+"\nhs-descriptor 3", "OK")
	f.Fuzz(func(t *testing.T, first, reply string) {
		e, err := parseEvent([]string{first}, reply)
		if err != nil {
			return
		}
		if h := e.hsDesc; h != nil && h.pair.hsdir != "" && !isHex(h.pair.hsdir) {
			t.Errorf("%q: %+v", first, h)
		}
		if p := e.progress; p != nil && (p.Percent < 0 || p.Percent > 100) {
			t.Errorf("%q: %+v", first, p)
		}
		if e.skew.Abs() > (1<<31)*time.Second {
			t.Errorf("%q: skew %v", first, e.skew)
		}
	})
}
