package config

import "strings"

func join(path, part string) string {
	if path == "" {
		return part
	}
	return path + "." + part
}

// advance passes over n bytes, counts their lines and returns them.
func (w *walker) advance(n int) string {
	passed := w.rest[:n]
	w.line += strings.Count(passed, "\n")
	w.rest = w.rest[n:]
	return passed
}

func (w *walker) accept(token string) bool {
	if !strings.HasPrefix(w.rest, token) {
		return false
	}
	w.advance(len(token))
	return true
}

// blank passes over spaces within a line.
func (w *walker) blank() {
	w.advance(len(w.rest) - len(strings.TrimLeft(w.rest, " \t")))
}

// space passes over spaces, line ends and comments.
func (w *walker) space() {
	for {
		w.advance(len(w.rest) - len(strings.TrimLeft(w.rest, " \t\r\n\ufeff")))
		if !strings.HasPrefix(w.rest, "#") {
			return
		}
		end := strings.IndexByte(w.rest, '\n')
		if end < 0 {
			end = len(w.rest)
		}
		w.advance(end)
	}
}

// quoted passes over a string that begins with quote and returns it, quotes
// included.
func (w *walker) quoted(quote string) string {
	basic := quote[0] == '"'
	i := len(quote)
	for i < len(w.rest) && !strings.HasPrefix(w.rest[i:], quote) {
		if basic && w.rest[i] == '\\' {
			i++
		}
		i++
	}
	i = min(i+len(quote), len(w.rest))
	// A multi-line string may end in up to two quotes of its own.
	for n := 0; len(quote) == 3 && n < 2 && i < len(w.rest) && w.rest[i] == quote[0]; n++ {
		i++
	}
	return w.advance(i)
}
