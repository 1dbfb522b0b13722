package control

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"onionbalancer/internal/printable"
)

// greeting is how long whoever listens may take to say the first word. tor's
// main loop, which answers, is seldom busy for as long as a second.
const greeting = 8 * time.Second

// controlPorts is the advice where something else than a control port listens.
const controlPorts = `set tor.control to the ControlSocket or ControlPort of tor's torrc, "unix:/run/tor/control" or "127.0.0.1:9051" as a rule`

// greet asks for tor's PROTOCOLINFO and returns its lines. An error says what
// listens there, if it is not a control port.
func (l *link) greet(patience time.Duration) ([]string, error) {
	defer func(timeout time.Duration) { l.timeout = timeout }(l.timeout)
	l.timeout = patience
	if err := l.arm(maxPlainReply); err != nil {
		return nil, err
	}
	if err := l.text.PrintfLine("PROTOCOLINFO 1"); err != nil {
		return nil, l.explain(err)
	}
	var lines []string
	for {
		raw, err := l.text.R.ReadBytes('\n')
		if err != nil && len(lines) > 0 {
			return nil, l.explain(unexpectedEOF(err))
		}
		if err != nil && len(raw) == 0 {
			return nil, silent(err, patience)
		}
		line, bad := parseReplyLine(raw)
		switch {
		case bad == nil && line.code >= 500 && line.kind == ' ':
			return nil, refusal(line.code, line.text)
		case bad != nil || err != nil || line.code != 250:
			return nil, stranger(string(raw))
		case line.kind == ' ':
			return lines, nil
		}
		lines = append(lines, line.text)
	}
}

// silent explains that nothing was said at all.
func silent(err error, patience time.Duration) error {
	switch {
	case isTimeout(err):
		err = fmt.Errorf("what listens there did not answer within %v: %w", patience, err)
	case errors.Is(err, io.EOF):
		err = errors.New("what listens there closed the connection without a word")
	default:
		return err
	}
	return advise(err, "is it tor's control port, and not stopped? Else %s", controlPorts)
}

// stranger says what listens there, by the first thing that it said.
func stranger(said string) error {
	line, _, _ := strings.Cut(said, "\n")
	line = strings.TrimRight(line, "\r")
	what := fmt.Sprintf("something that says \"%.60s\"", printable.Text(line))
	switch {
	case strings.Contains(line, "Tor is not an HTTP Proxy"):
		what = "tor's SOCKS port"
	case strings.HasPrefix(line, "HTTP/"):
		what = "a web server or HTTP proxy"
	case strings.HasPrefix(line, "SSH-"):
		what = "an SSH server"
	case strings.HasPrefix(line, "\x15\x03"):
		what = "a TLS server, tor's ORPort perhaps"
	}
	return advise(fmt.Errorf("no control port listens there, but %s", what), "%s", controlPorts)
}
