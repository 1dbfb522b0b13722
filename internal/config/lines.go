package config

import (
	"fmt"
	"regexp"
	"strings"
)

// lines tells where in the file a key or table stands. Paths are dotted, with
// indexes from 0 for arrays: "service[0].instance[1].address".
type lines map[string]int

// of returns the line of path, or of the nearest table around it, or 0.
func (l lines) of(path string) int {
	for path != "" {
		if line, ok := l[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return 0
}

var indexes = regexp.MustCompile(`\[\d+\]`)

func withoutIndexes(path string) string { return indexes.ReplaceAllString(path, "") }

// Limits on nesting, of arrays, tables and dotted keys, and on the length of a
// key. Nothing in the file needs a tenth of it, and a parser's time and memory
// grow with the square of either.
const (
	maxDepth = 16
	maxKey   = 200
)

// locate finds the lines of all keys of a TOML document. Whether it is valid is
// for the parser to say: the walk only tells keys from values.
// (The parser itself keeps one line for each dotted key, which does not say
// which element of an array of tables it was in.)
//
// Line tooDeep is 0, or where a limit is passed.
func locate(document string) (found lines, tooDeep int) {
	w := walker{rest: document, line: 1, found: make(lines), counts: make(map[string]int)}
	table := ""
	for w.space(); w.rest != "" && w.tooDeep == 0; w.space() {
		before := len(w.rest)
		if w.accept("[") {
			table = w.header()
		} else {
			w.keyValue(table)
		}
		if len(w.rest) == before {
			break // not TOML after all
		}
	}
	return w.found, w.tooDeep
}

type walker struct {
	rest   string
	line   int
	found  lines
	counts map[string]int // elements seen of an array of tables

	depth, tooDeep int
}

// header reads the rest of [table] or [[table]] and returns its path.
func (w *walker) header() string {
	line, array := w.line, w.accept("[")
	parts := w.key()
	path := ""
	for i, part := range parts {
		path = join(path, part)
		if array && i == len(parts)-1 {
			w.counts[path]++
		}
		if n := w.counts[path]; n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	w.accept("]")
	w.accept("]")
	w.found[path] = line
	if whole := withoutIndexes(path); w.found[whole] == 0 {
		w.found[whole] = line // for complaints about the array as a whole
	}
	return path
}

func (w *walker) keyValue(table string) {
	line, path := w.line, table
	for _, part := range w.key() {
		path = join(path, part)
	}
	w.found[path] = line
	w.blank()
	if w.accept("=") {
		w.blank()
		w.value(path)
	}
}

// key reads a dotted key of bare and quoted parts.
func (w *walker) key() []string {
	var parts []string
	for {
		w.blank()
		parts = append(parts, w.keyPart())
		w.blank()
		if len(parts) > maxDepth || len(parts[len(parts)-1]) > maxKey {
			w.tooDeep = w.line
			return nil
		}
		if !w.accept(".") {
			return parts
		}
	}
}

func (w *walker) keyPart() string {
	if strings.HasPrefix(w.rest, `"`) || strings.HasPrefix(w.rest, "'") {
		text := w.quoted(w.rest[:1])
		return strings.Trim(text, text[:1])
	}
	end := strings.IndexAny(w.rest, " \t=.]\r\n")
	if end < 0 {
		end = len(w.rest)
	}
	return w.advance(end)
}

// value passes over a value, noting the keys of inline tables in it. Where it
// gets no further, the document is not TOML, and it returns.
func (w *walker) value(path string) {
	w.depth++
	defer func() { w.depth-- }()
	if w.depth > maxDepth {
		w.tooDeep = w.line
	}
	if w.tooDeep > 0 {
		w.rest = ""
		return
	}
	for _, quote := range []string{`"""`, "'''", `"`, "'"} {
		if strings.HasPrefix(w.rest, quote) {
			w.quoted(quote)
			return
		}
	}
	switch {
	case w.accept("["):
		for i, before := 0, -1; w.rest != "" && len(w.rest) != before; i++ {
			before = len(w.rest)
			w.space()
			if w.accept("]") {
				return
			}
			element := fmt.Sprintf("%s[%d]", path, i)
			w.found[element] = w.line
			w.value(element)
			w.space()
			w.accept(",")
		}
	case w.accept("{"):
		for before := -1; w.rest != "" && len(w.rest) != before; {
			before = len(w.rest)
			w.space()
			if w.accept("}") {
				return
			}
			w.keyValue(path)
			w.space()
			w.accept(",")
		}
	default:
		end := strings.IndexAny(w.rest, ",]}#\n")
		if end < 0 {
			end = len(w.rest)
		}
		w.advance(end)
	}
}
