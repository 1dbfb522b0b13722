package main

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestField runs what is in testdata/field: inputs as the field gives them, each
// with what the command line answers. A case is added by adding a file.
func TestField(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/field", RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"unbase64": unbase64, "listen": listenAs},
	})
}

// unbase64 FROM TO decodes what a script can only hold as text.
func unbase64(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: unbase64 FROM TO")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(ts.ReadFile(args[0])), ""))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), raw, 0o600))
}

// stands are what listens where tor.control says, each as a function of the next
// line that it is sent; "" says nothing.
var stands = map[string]struct {
	banner string
	answer func(line string) (says string, hangUp bool)
}{
	"silence": {answer: func(string) (string, bool) { return "", false }},
	"http": {answer: func(string) (string, bool) {
		return "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", true
	}},
	"socks": {answer: func(string) (string, bool) {
		return "HTTP/1.0 501 Tor is not an HTTP Proxy\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n<html>\n", true
	}},
	"ssh": {banner: "SSH-2.0-OpenSSH_9.2p1\r\n", answer: func(string) (string, bool) {
		return "Invalid SSH identification string.\r\n", true
	}},
	"filter": {answer: func(line string) (string, bool) {
		return controlAnswer(line, "0.4.8.16", "510 Command filtered\r\n"), false
	}},
	"old": {answer: func(line string) (string, bool) {
		if strings.HasPrefix(line, "GETINFO") {
			return "552 Unrecognized key \"" + strings.TrimPrefix(line, "GETINFO ") + "\"\r\n", false
		}
		return controlAnswer(line, "0.3.5.16", "250 OK\r\n"), false
	}},
	"password": {answer: func(line string) (string, bool) {
		if strings.HasPrefix(line, "PROTOCOLINFO") {
			return "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=HASHEDPASSWORD\r\n250-VERSION Tor=\"0.4.8.16\"\r\n250 OK\r\n", false
		}
		return "515 Authentication failed: Password did not match HashedControlPassword *or* authentication cookie.\r\n", true
	}},
}

// controlAnswer lets everybody in, and has one answer to all else.
func controlAnswer(line, version, otherwise string) string {
	switch {
	case strings.HasPrefix(line, "PROTOCOLINFO"):
		return "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"" + version + "\"\r\n250 OK\r\n"
	case strings.HasPrefix(line, "AUTHENTICATE"):
		return "250 OK\r\n"
	}
	return otherwise
}

// listenAs AS PATH answers as one of stands on the unix socket at PATH, until the
// script ends.
func listenAs(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: listen AS PATH")
	}
	as, known := stands[args[0]]
	if !known {
		ts.Fatalf("nothing listens as %q", args[0])
	}
	l, err := net.Listen("unix", ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, as.banner)
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					says, hangUp := as.answer(lines.Text())
					if _, err := io.WriteString(conn, says); err != nil || hangUp {
						return
					}
				}
			}()
		}
	}()
}
