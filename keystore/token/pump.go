package token

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
)

// Bounds of what a module may say in the log.
const (
	maxLine  = 400 // bytes of a line
	maxLines = 200 // of one helper
)

// pump writes what a helper says on standard output and error into the log, for
// those who look for what is wrong with a module. One goroutine uses it.
type pump struct {
	pin   fingerprint
	line  []byte
	lines int
	trace bool // that what follows is a trace of the Go runtime
}

// Write takes any part of the text. It never fails.
func (p *pump) Write(text []byte) (int, error) {
	n := len(text)
	for len(text) > 0 {
		part, rest, found := bytes.Cut(text, []byte("\n"))
		if room := maxLine - len(p.line); room > 0 {
			p.line = append(p.line, part[:min(room, len(part))]...)
		}
		if found {
			p.flush()
		}
		text = rest
	}
	return n, nil
}

// flush logs the line that was begun.
func (p *pump) flush() {
	line := p.line
	p.line = nil
	if len(line) == 0 || p.trace || p.lines > maxLines || !slog.Default().Enabled(context.Background(), slog.LevelDebug) {
		clear(line)
		return
	}
	if p.lines++; p.lines > maxLines {
		slog.Debug("a helper for a token says more than is logged")
		return
	}
	// A trace has arguments and registers, in which there may be secrets.
	p.trace = bytes.HasPrefix(line, []byte("goroutine "))
	switch {
	case p.trace:
		slog.Debug("a helper for a token crashed; the trace is left out")
	case p.pin.within(line):
		slog.Debug("a helper for a token wrote the PIN; the line is left out")
	default:
		slog.Debug("a helper for a token says", "text", strings.ToValidUTF8(string(line), "\uFFFD"))
	}
	clear(line)
}
