package control

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// reply is tor's answer to a command, or an event (control-spec, section 2.3).
type reply struct {
	code     int
	lines    []string // without the code; the last one ends the reply
	document []byte   // that follows the first line of kind '+', with LF line ends; nil if none does
}

// codeEvent is the code of events.
const codeEvent = 650

func (r *reply) ok() bool      { return r.code == 250 || r.code == 251 }
func (r *reply) isEvent() bool { return r.code == codeEvent }

// text returns the last line.
func (r *reply) text() string { return r.lines[len(r.lines)-1] }

// info returns the value of the one key that GETINFO asked for, from 250-key=value
// or 250+key= with a document, and then 250 OK.
func (r *reply) info(key string) ([]byte, error) {
	name, value, found := strings.Cut(r.lines[0], "=")
	if len(r.lines) != 2 || !found || !strings.EqualFold(name, key) {
		return nil, fmt.Errorf("reading the reply: unexpected line of code %d", r.code)
	}
	if r.document != nil {
		return r.document, nil
	}
	return []byte(value), nil
}

// readReply reads one reply or event. limit and expect are how many bytes its
// document may have, and how many it has as a rule.
func readReply(r *bufio.Reader, limit int64, expect int) (*reply, error) {
	out := &reply{}
	for {
		line, err := readReplyLine(r)
		if err != nil {
			return nil, err
		}
		if len(out.lines) > 0 && line.code != out.code {
			return nil, fmt.Errorf("reading the reply: a line of code %d in a reply of code %d", line.code, out.code)
		}
		out.code, out.lines = line.code, append(out.lines, line.text)
		switch line.kind {
		case ' ':
			return out, nil
		case '+':
			document, err := readBody(r, limit, expect)
			if err != nil {
				return nil, err
			}
			if out.document == nil {
				out.document = document
			}
		}
	}
}

// writeDocument writes a document with CRLF line ends, and the dot that ends it.
// Dots that begin a line are doubled, so that none of them does (control-spec,
// section 2.2). w remembers errors.
func writeDocument(w *bufio.Writer, document []byte) {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > 0 && line[0] == '.' {
			_ = w.WriteByte('.')
		}
		_, _ = w.Write(line)
		_, _ = w.WriteString("\r\n")
	}
	_, _ = w.WriteString(".\r\n")
}

type replyLine struct {
	code int
	kind byte // ' ', '-' or '+'
	text string
}

func readReplyLine(r *bufio.Reader) (replyLine, error) {
	raw, err := r.ReadBytes('\n')
	if err != nil {
		return replyLine{}, unexpectedEOF(err)
	}
	return parseReplyLine(raw)
}

func parseReplyLine(raw []byte) (replyLine, error) {
	line := string(bytes.TrimRight(raw, "\r\n"))
	if len(line) < 4 || !strings.ContainsRune(" -+", rune(line[3])) {
		return replyLine{}, fmt.Errorf("reading the reply: not a line of the control protocol: %.40q", line)
	}
	code, err := strconv.ParseUint(line[:3], 10, 16)
	if err != nil || code < 100 {
		return replyLine{}, fmt.Errorf("reading the reply: no status code in %.40q", line)
	}
	return replyLine{code: int(code), kind: line[3], text: line[4:]}, nil
}

// readBody reads a dot-stuffed document up to its final dot, with LF ends.
func readBody(r *bufio.Reader, limit int64, expect int) ([]byte, error) {
	body := make([]byte, 0, min(int64(expect)+int64(expect)/16+512, limit))
	start := true // at the beginning of a line
	for {
		part, err := r.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, unexpectedEOF(err)
		}
		if whole {
			part = append(trimEnd(part), '\n')
		} else if n := len(part) - 1; part[n] == '\r' { // perhaps half a line end
			if err := r.UnreadByte(); err != nil {
				return nil, fmt.Errorf("reading a document: %w", err)
			}
			part = part[:n]
		}
		if start && part[0] == '.' {
			if part = part[1:]; len(part) == 1 && whole {
				return body, nil
			}
		}
		if int64(len(body)+len(part)) > limit {
			return nil, fmt.Errorf("reading a document: %w (%d)", ErrTooLarge, limit)
		}
		body = append(body, part...)
		start = whole
	}
}

// trimEnd removes the line end, in place: the slice is the reader's own.
func trimEnd(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line[: len(line) : len(line)+1]
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the reply: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading the reply: %w", err)
}
