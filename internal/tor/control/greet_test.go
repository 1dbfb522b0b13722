package control

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What listens in the place of a control port is named, within seconds.
func TestNotAControlPort(t *testing.T) {
	for name, test := range map[string]struct {
		says, errHas string
	}{
		"tor's SOCKS port":    {"HTTP/1.0 501 Tor is not an HTTP Proxy\r\nContent-Type: text/html\r\n\r\n<html>\n", "but tor's SOCKS port"},
		"web server":          {"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "but a web server"},
		"SSH":                 {"SSH-2.0-OpenSSH_9.2p1\r\n", "but an SSH server"},
		"TLS":                 {"\x15\x03\x01\x00\x02\x02\x0a", "but a TLS server"},
		"mail":                {"220 mail.example ESMTP\r\n", `something that says "220 mail.example ESMTP"`},
		"half a line":         {"hello", `something that says "hello"`},
		"a terminal's worst":  {"\x1b[2Jok\r\n", `something that says "\x1b[2Jok"`},
		"no methods":          {"250 OK\r\n", "names no way to authenticate"},
		"a filter":            {"510 Command filtered\r\n", "does not let the command pass"},
		"half a control port": {"250-PROTOCOLINFO 1\r\n", "unexpected EOF"},
		"nothing":             {"", "closed the connection without a word"},
	} {
		t.Run(name, func(t *testing.T) {
			err := meet(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, test.says)
				conn.Close()
			})
			if err == nil || !strings.Contains(err.Error(), test.errHas) {
				t.Errorf("got %v, want %q", err, test.errHas)
			}
			if _, mend := Split(err); mend == "" && name != "half a control port" {
				t.Errorf("no advice in %v", err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := meet(t, func(net.Conn) {})
			if err == nil || !strings.Contains(err.Error(), "did not answer within 8s") || time.Since(began) > 10*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	})
}

// meet has one connection answered, once its first line has come.
func meet(t *testing.T, answer func(conn net.Conn)) error {
	t.Helper()
	tor := new(fakeTor)
	tor.on("PROTOCOLINFO", func(c *fakeConn, _, _ string) { answer(c) })
	l, _, err := openLink(t.Context(), Config{Dial: tor.dial}.withDefaults())
	if err == nil {
		l.close()
	}
	tor.serving.Wait()
	return err
}

// A filter lets the handshake pass and refuses what we live by.
func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tor := new(fakeTor)
		tor.on("SETEVENTS", func(c *fakeConn, _, _ string) { c.say("510 Command filtered") })
		c := New(Config{Dial: tor.dial})
		_, err := c.connect(t.Context())
		var reply *ReplyError
		text, mend := Split(err)
		if !errors.As(err, &reply) || !strings.Contains(text, "a filter before the control port") || !strings.Contains(mend, "SETEVENTS") ||
			strings.Contains(text, mend) {
			t.Errorf("got %q, advice %q", text, mend)
		}
		tor.serving.Wait()
	})
}
