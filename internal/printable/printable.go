// Package printable makes text that is not ours fit for a terminal and a log:
// names of files, labels of tokens, what a descriptor or a socket said. Anyone who
// chose that text must not be able to move the cursor, to hide what stands
// beside it, or to begin a line of its own.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text returns s with everything escaped, as in a Go string, that is not a
// graphic character or a plain space: control characters, the line feed among
// them, invisible ones, those that change the direction of writing, and bytes
// that are no UTF-8. A backslash is escaped too where anything else is, so that
// two different texts never look alike.
func Text(s string) string {
	if plain(s) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Lines is Text for what may have several lines, each of which is escaped by
// itself.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Text(line)
	}
	return strings.Join(lines, "\n")
}

// Count writes "1 service" and "2 services".
func Count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func plain(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
