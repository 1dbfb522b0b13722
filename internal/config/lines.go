package config

import (
	"fmt"
	"regexp"
	"strings"
)

// lines tells in which line of the file a key or table stands. Paths are dotted,
// with indexes from 0 for arrays: "service[0].instance[1].address".
type lines map[string]int

// of returns the line of path, or of the nearest table around it, or 0.
func (l lines) of(path string) int {
	for path != "" && l[path] == 0 {
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return l[path]
}

var indexes = regexp.MustCompile(`\[\d+\]`)

func withoutIndexes(path string) string { return indexes.ReplaceAllString(path, "") }

func join(path, part string) string { return strings.TrimPrefix(path+"."+part, ".") }

// Limits on nesting, of arrays, tables and dotted keys, and on the length of a
// key. Nothing in the file needs a tenth of it, and a parser's time and memory
// grow with the square of either.
const (
	maxDepth = 16
	maxKey   = 200
)

var (
	quoted   = regexp.MustCompile(`(?s)"""(?:\\.|[^\\])*?"""+|'''.*?'''+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*`)
	keyStart = regexp.MustCompile(`^\s*(\[\[?)?[^\[\]{}=,]+[\]=]`)
)

// withoutText reduces a document to its structure: quoted text and comments
// are blanked.
func withoutText(document string) string {
	notStructure := strings.NewReplacer("[", "_", "]", "_", "{", "_", "}", "_", "=", "_", ",", "_", "#", "_")
	return quoted.ReplaceAllStringFunc(strings.TrimPrefix(document, "\ufeff"), func(s string) string {
		if n := strings.Count(s, "\n"); n > 0 || s[0] == '#' {
			return `""`[:min(2*n, 2)] + strings.Repeat("\n", n)
		}
		return notStructure.Replace(s)
	})
}

// locate finds the line of each table, each key that begins a line, and each
// element of an array that begins one. (The parser keeps one line for each dotted
// key, which does not say in which element of an array of tables it was.) Whether
// the document is valid is for the parser to say. tooDeep is the line where a
// limit is passed, or 0.
func locate(document string) (found lines, tooDeep int) {
	found = make(lines)
	var table, path string
	depth, element := 0, 0       // within the value of path
	seen := make(map[string]int) // elements of an array of tables
	for n, line := range strings.Split(withoutText(document), "\n") {
		line = strings.TrimSpace(line)
		if start := keyStart.FindString(line); depth == 0 && start != "" {
			if strings.Count(start, ".") >= maxDepth || len(start) > maxKey {
				return found, n + 1
			}
			path, element = pathOf(start, table, seen), 0
			found[path] = n + 1
			if start[0] == '[' {
				table = path
				if whole := withoutIndexes(path); found[whole] == 0 {
					found[whole] = n + 1 // for complaints about the array
				}
			}
		} else if depth == 1 && line != "" && !strings.Contains("]},", line[:1]) {
			found[fmt.Sprintf("%s[%d]", path, element)] = n + 1
		}
		for _, c := range line {
			switch {
			case c == '[' || c == '{':
				depth++
			case c == ']' || c == '}':
				depth = max(depth-1, 0)
			case c == ',' && depth == 1:
				element++
			}
			if depth > maxDepth {
				return found, n + 1
			}
		}
	}
	return found, 0
}

// pathOf returns the path of a key in a table, or of the header of a table.
func pathOf(start, table string, seen map[string]int) (path string) {
	header, array := strings.HasPrefix(start, "["), strings.HasPrefix(start, "[[")
	if !header {
		path = table
	}
	parts := strings.Split(strings.Trim(start, "[]= \t\r"), ".")
	for i, part := range parts {
		path = join(path, strings.Trim(part, "\"' \t"))
		if array && i == len(parts)-1 {
			seen[path]++
		}
		if n := seen[path]; n > 0 && header {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	return path
}
