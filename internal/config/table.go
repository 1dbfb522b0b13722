package config

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/openfile"
)

// table reads the keys of one TOML table and remembers which it was asked for,
// so that the others can be refused.
type table struct {
	path   string
	values map[string]any
	known  []string
	dir    string // of the file, for relative paths
	bad    *complaints
}

// at returns the path of key, for complaints.
func (t *table) at(key string) string { return join(t.path, key) }

// get returns the value of key, if it is there and a T.
func get[T any](t *table, key, wanted string) (T, bool) {
	t.known = append(t.known, key)
	if t.bad.homes == nil {
		t.bad.homes = make(map[string]string)
	}
	t.bad.homes[key] = t.title()
	var none T
	value, there := t.values[key]
	if !there {
		return none, false
	}
	typed, ok := value.(T)
	if !ok {
		t.bad.add(t.at(key), "must be %s, not %s%s", wanted, kind(value), meantAs(key, value, any(none)))
	}
	return typed, ok
}

// meantAs gives the line with value in the type that is wanted, if it is only
// quotes that are missing or too many.
func meantAs(key string, value, wanted any) string {
	text, isText := value.(string)
	switch wanted.(type) {
	case string:
		switch value.(type) {
		case int64, float64, bool:
			return "; write " + write(key, fmt.Sprint(value))
		}
	case int64, float64, bool:
		if isText && plainWord.MatchString(text) {
			return "; write " + key + " = " + text
		}
	}
	return ""
}

func (t *table) text(key string) string {
	s, _ := get[string](t, key, "a string")
	return s
}

func (t *table) boolean(key string) bool {
	b, _ := get[bool](t, key, "true or false")
	return b
}

// file reads the path of a file and makes it absolute.
func (t *table) file(key string) string {
	s, there := get[string](t, key, "the path of a file, as a string")
	if !there {
		return ""
	}
	if problem := pathProblem(s); problem != nil {
		t.bad.add(t.at(key), "%w", problem)
		return ""
	}
	return t.absolute(s)
}

// secret is file for a secret, which may also be a credential of systemd's:
// "credential:NAME", for whoever opens it to resolve.
func (t *table) secret(key string) string {
	s, _ := t.values[key].(string)
	is, err := openfile.IsCredential(s)
	if !is {
		return t.file(key)
	}
	t.known = append(t.known, key)
	if err != nil {
		t.bad.add(t.at(key), "%w", err)
	}
	return s
}

func (t *table) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(t.dir, path)
}

// pathProblem says what keeps s from being a path. It never repeats s, which
// may be a secret in the place of its path.
func pathProblem(s string) error {
	switch {
	case s == "":
		return errors.New("is empty; leave the line out for the default")
	case strings.ContainsAny(s, "\x00\n"):
		return errors.New("must be the path of a file, never what is in the file")
	}
	return nil
}

// choice reads one of a few words, the first of which is the default.
func (t *table) choice(key string, words ...string) string {
	s, there := get[string](t, key, "a string")
	if !there {
		return words[0]
	}
	if !slices.Contains(words, s) {
		t.bad.add(t.at(key), "unknown %s %q, want one of %s%s", key, s, quoteAll(words), didYouMean(s, words))
		return words[0]
	}
	return s
}

func (t *table) duration(key string, least time.Duration) time.Duration {
	const wanted = `a string with a unit, such as "10m"`
	if n, ok := t.values[key].(int64); ok {
		t.known = append(t.known, key)
		t.bad.add(t.at(key), "must be %s; write %s", wanted, write(key, fmt.Sprint(n, "s")))
		return 0
	}
	s, _ := get[string](t, key, wanted)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		t.bad.add(t.at(key), "%q is no duration, want %s", s, wanted)
	case d < least:
		t.bad.add(t.at(key), "%q is too short, want at least %q", s, least)
	default:
		return d
	}
	return 0
}

func (t *table) integer(key string, least, most, otherwise int) int {
	n, there := get[int64](t, key, "a whole number")
	if !there {
		return otherwise
	}
	if n < int64(least) || n > int64(most) {
		t.bad.add(t.at(key), "%d is out of range, want %d to %d", n, least, most)
		return otherwise
	}
	return int(n)
}

// number reads a number from 0 on, whole or not.
func (t *table) number(key string, otherwise float64) float64 {
	if n, whole := t.values[key].(int64); whole {
		t.values[key] = float64(n)
	}
	f, there := get[float64](t, key, "a number")
	if !there {
		return otherwise
	}
	if f < 0 || f > math.MaxInt32 || math.IsNaN(f) {
		t.bad.add(t.at(key), "%v is out of range, want 0 or more, at most %d", f, math.MaxInt32)
		return otherwise
	}
	return f
}

// table returns the table at key, empty if it is not there.
func (t *table) table(key string) *table {
	values, _ := get[map[string]any](t, key, "a table, ["+t.heading(key)+"]")
	return &table{path: t.at(key), values: values, dir: t.dir, bad: t.bad}
}

// tables returns the elements of the array of tables at key.
func (t *table) tables(key string) []*table {
	wanted := "an array of tables, [[" + t.heading(key) + "]]"
	if list, ok := t.values[key].([]map[string]any); ok {
		generic := make([]any, len(list))
		for i := range list {
			generic[i] = list[i]
		}
		t.values[key] = generic
	}
	if _, single := t.values[key].(map[string]any); single {
		t.known = append(t.known, key)
		t.bad.add(t.at(key), "must be %s, with two brackets", wanted)
		return nil
	}
	list, _ := get[[]any](t, key, wanted)
	var out []*table
	for i, element := range list {
		path := fmt.Sprintf("%s[%d]", t.at(key), i)
		values, ok := element.(map[string]any)
		if !ok {
			t.bad.add(path, "must be %s, and holds %s%s", wanted, kind(element), t.asTable(key, element))
			break
		}
		out = append(out, &table{path: path, values: values, dir: t.dir, bad: t.bad})
	}
	return out
}

// asTable writes an address that stands for a whole instance as the table it
// has to be.
func (t *table) asTable(key string, element any) string {
	text, _ := element.(string)
	if _, err := readAddress(text); err != nil {
		return ""
	}
	return fmt.Sprintf("; write [[%s]] and below it %s", t.heading(key), write("address", text))
}

func (t *table) heading(key string) string { return withoutIndexes(t.at(key)) }
