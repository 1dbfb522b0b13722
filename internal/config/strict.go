package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// refuseOthers marks the table as read: every key that nobody asked for until
// judgeOthers is refused.
func (t *table) refuseOthers() { t.bad.tables = append(t.bad.tables, t) }

// judgeOthers complains about every key that nobody asked for, when it is known
// where each belongs.
func (c *complaints) judgeOthers() {
	c.learnHomes()
	for _, t := range c.tables {
		for _, key := range slices.Sorted(maps.Keys(t.values)) {
			if !slices.Contains(t.known, key) {
				c.add(t.at(key), "unknown key%s", t.hint(key))
			}
		}
	}
}

// learnHomes reads a service and an instance without anything in them, so that
// the place of their keys is known where the file has neither.
func (c *complaints) learnHomes() {
	scratch := new(complaints)
	readService(&table{path: "service[0]", bad: scratch})
	readInstance(&table{path: "service[0].instance[0]", bad: scratch})
	maps.Copy(c.homes, scratch.homes)
}

// hint says what may be meant by an unknown key.
func (t *table) hint(key string) string {
	switch t.values[key].(type) {
	case map[string]any, []map[string]any, []any:
		switch strings.TrimSuffix(normal(key), "s") {
		case "service":
			return "; write [[service]]"
		case "instance":
			return "; write [[service.instance]]"
		}
	}
	// TOML's trap: a key belongs to the last table before it.
	if home, known := t.bad.homes[key]; known && home != t.title() {
		return "; it belongs " + home
	}
	if near := didYouMean(key, t.known); near != "" {
		return near
	}
	return "; known here are " + strings.Join(t.known, ", ")
}

// title says where the keys of the table stand.
func (t *table) title() string {
	path := withoutIndexes(t.path)
	switch {
	case path == "":
		return "at the top of the file, before the first [table]"
	case strings.HasSuffix(t.path, "]"):
		return "under [[" + path + "]]"
	}
	return "under [" + path + "]"
}

// kind names a TOML value's type as an operator would.
func kind(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "an array"
	}
	return fmt.Sprintf("a %T", value)
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, ", ")
}

// didYouMean suggests the known word nearest to s, if one is near enough to be
// a slip of the keyboard.
func didYouMean(s string, known []string) string {
	best, distance := "", 1+max(len(s)/3, 1)
	for _, word := range known {
		short, long := normal(s), normal(word)
		if len(short) > len(long) {
			short, long = long, short
		}
		if len(short) >= 3 && strings.HasPrefix(long, short) {
			return fmt.Sprintf("; did you mean %q?", word)
		}
		if d := editDistance(normal(s), normal(word)); d < distance {
			best, distance = word, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func normal(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }

// editDistance counts the insertions, deletions and replacements of bytes that
// turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
