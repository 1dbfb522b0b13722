package printable

import (
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Writer returns a writer to w that lets through what is printable, line feeds
// and tabs, and escapes everything else: the last boundary before a terminal or
// a log, no matter who forgot Text before it. It escapes as JSON does, so that JSON
// stays JSON and means the same; only bytes that are no UTF-8, which JSON never
// has, become \x and two digits. Each call of Write is for whole characters.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ to io.Writer }

func (w writer) Write(p []byte) (int, error) {
	if _, err := w.to.Write(escape(p)); err != nil {
		return 0, err // how much of p that was cannot be told
	}
	return len(p), nil
}

// escape returns p itself if there is nothing to escape.
func escape(p []byte) []byte {
	var out []byte
	done := 0 // of p, which out has, once anything was escaped
	for i := 0; i < len(p); {
		r, size := utf8.DecodeRune(p[i:])
		broken := r == utf8.RuneError && size == 1
		if broken || !strconv.IsPrint(r) && r != '\n' && r != '\t' {
			out = append(out, p[done:i]...)
			if broken {
				out = fmt.Appendf(out, `\x%02x`, p[i])
			} else {
				out = appendJSON(out, r)
			}
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return p
	}
	return append(out, p[done:]...)
}

func appendJSON(out []byte, r rune) []byte {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return fmt.Appendf(out, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}
