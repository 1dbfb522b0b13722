package hsdir

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ParseError says what is wrong with a directory document, and in which line.
type ParseError struct {
	Document string // "consensus" or "microdescriptors"
	Line     int    // counted from 1; 0 when the document as a whole is at fault
	Err      error
}

func (e *ParseError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("reading %s: %v", e.Document, e.Err)
	}
	return fmt.Sprintf("reading %s: line %d: %v", e.Document, e.Line, e.Err)
}

func (e *ParseError) Unwrap() error { return e.Err }

// lines iterates over a document without copying it. It does not count lines, since
// line numbers are needed for errors only.
type lines struct {
	doc  []byte
	at   int // where the line that scan returned begins
	next int // where the one after it begins
}

// scan returns the next line without its newline. A last line without one
// counts as a line.
func (l *lines) scan() ([]byte, bool) {
	if l.next >= len(l.doc) {
		return nil, false
	}
	l.at = l.next
	end := bytes.IndexByte(l.doc[l.at:], '\n')
	if end < 0 {
		l.next = len(l.doc)
		return l.doc[l.at:], true
	}
	l.next = l.at + end + 1
	return l.doc[l.at : l.at+end], true
}

// number returns the number of the line that scan returned last.
func (l *lines) number() int { return lineNumber(l.doc, l.at) }

func lineNumber(doc []byte, offset int) int { return 1 + bytes.Count(doc[:offset], []byte{'\n'}) }

// word cuts the first word off a line. Words are separated by any number of
// spaces and tabs; an empty word means that there is none left.
func word(line []byte) (first, rest []byte) {
	i := 0
	for i < len(line) && isBlank(line[i]) {
		i++
	}
	start := i
	for i < len(line) && !isBlank(line[i]) {
		i++
	}
	return line[start:i], line[i:]
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// quote shows input in an error, cut off if it is long.
func quote(text []byte) string {
	const shown = 40
	if len(text) > shown {
		return fmt.Sprintf("%q…", text[:shown])
	}
	return fmt.Sprintf("%q", text)
}

var errBase64 = errors.New("not base64 of the right length")

// decodeBase64 decodes text, padded or not, into dst. Like tor it
// ignores the low bits that are left over in the last character.
func decodeBase64(dst, text []byte) error {
	for len(text) > 0 && text[len(text)-1] == '=' {
		text = text[:len(text)-1]
	}
	if len(text) != base64.RawStdEncoding.EncodedLen(len(dst)) {
		return errBase64
	}
	if n, err := base64.RawStdEncoding.Decode(dst, text); err != nil || n != len(dst) {
		return errBase64
	}
	return nil
}

func parseTime(text []byte) (time.Time, error) {
	text = bytes.TrimSpace(text)
	if len(text) != len(dirTimeLayout) {
		return time.Time{}, fmt.Errorf("%s is not a time, want %q", quote(text), dirTimeLayout)
	}
	t, err := time.Parse(dirTimeLayout, string(text))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time, want %q", quote(text), dirTimeLayout)
	}
	return t, nil
}

// parseSharedRandom reads the number of reveals and the value. A value that
// cannot be decoded counts as missing, as it does for tor, so that everyone
// falls back on the same disaster value; a wrong number of words does not.
func parseSharedRandom(text []byte) (*[32]byte, error) {
	reveals, rest := word(text)
	value, rest := word(rest)
	if extra, _ := word(rest); len(value) == 0 || len(extra) > 0 {
		return nil, fmt.Errorf("%s is not a number of reveals and a value", quote(text))
	}
	var srv [32]byte
	if !isNumber(reveals) || decodeBase64(srv[:], value) != nil {
		return nil, nil
	}
	return &srv, nil
}

func isNumber(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}

// upperHex writes a fingerprint as tor does.
func upperHex(fingerprint []byte) string {
	return string(bytes.ToUpper([]byte(hex.EncodeToString(fingerprint))))
}
