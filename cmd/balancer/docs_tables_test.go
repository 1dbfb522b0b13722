package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/selection"
)

// section returns the part of the README under a heading, up to the next one of
// the same rank.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(readDoc(t, "README.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("the README has no section %q", heading)
	}
	part, _, _ := strings.Cut(after, "\n## ")
	return part
}

// rows returns the cells of all table rows in text whose first cell is code.
func rows(text string) (list [][]string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			list = append(list, cells)
		}
	}
	return list
}

func code(cell string) string { return strings.Trim(cell, "`") }

// configKeys lists the keys that a struct of the configuration stands for, with
// the words for their types.
func configKeys(of reflect.Type, path string, into map[string]string) {
	for _, field := range reflect.VisibleFields(of) {
		key, isKey := field.Tag.Lookup("toml")
		name := path + key
		elem := field.Type
		if elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		switch {
		case !isKey:
		case elem.Kind() == reflect.Struct:
			configKeys(elem, name+".", into)
		case elem != field.Type:
			into[name] = "string or list"
		case elem == reflect.TypeFor[time.Duration]():
			into[name] = "duration"
		case elem.Kind() == reflect.Bool:
			into[name] = "true or false"
		case elem == reflect.TypeFor[int]():
			into[name] = "whole number"
		case elem.Kind() == reflect.Float64:
			into[name] = "number"
		default:
			into[name] = "string or path"
		}
	}
}

func TestDocsConfigurationKeys(t *testing.T) {
	want := make(map[string]string)
	configKeys(reflect.TypeFor[config.Config](), "", want)
	for key := range want { // tables of checks have the keys of [check]
		table, name := key[:max(strings.LastIndexByte(key, '.'), 0)], key[strings.LastIndexByte(key, '.')+1:]
		if _, general := want["check."+name]; general && strings.HasSuffix(table, ".check") {
			delete(want, key)
		}
	}
	for key := range want { // a shard has most keys of a service
		if name, of := strings.CutPrefix(key, "shard."); of && want["service."+name] != "" {
			delete(want, key)
		}
	}
	if len(want) < 10 {
		t.Fatalf("only %d keys: %v", len(want), want)
	}
	defaults := make(map[string]string)
	for _, cells := range rows(section(t, "Configuration")) {
		if len(cells) != 4 {
			t.Errorf("a row of %d cells: %q", len(cells), cells)
			continue
		}
		key, kind := code(cells[0]), cells[1]
		if kind == "string" || kind == "path" {
			kind = "string or path"
		}
		if want[key] != kind {
			t.Errorf("%s is documented as %q, and is %q", key, cells[1], want[key])
		}
		if _, twice := defaults[key]; twice {
			t.Errorf("%s is documented twice", key)
		}
		defaults[key] = code(cells[2])
	}
	for key := range want {
		if _, there := defaults[key]; !there {
			t.Errorf("%s is not documented", key)
		}
	}
	for key, value := range map[string]string{
		"service.strategy":                strconv.Quote(selection.Default),
		"service.max_introduction_points": strconv.Itoa(descriptor.MaxIntroductionPoints),
		"service.instance.weight":         "1",
		"log.level":                       `"info"`,
		"log.format":                      strconv.Quote(config.FormatText),
		"log.full_addresses":              "false",
	} {
		if defaults[key] != value {
			t.Errorf("%s: the default is documented as %q, and is %q", key, defaults[key], value)
		}
	}
}

func TestDocsStrategies(t *testing.T) {
	var names []string
	for _, cells := range rows(section(t, "Strategies")) {
		names = append(names, code(cells[0]))
	}
	if !slices.Equal(names, selection.Names()) {
		t.Errorf("documented are %q, there are %q", names, selection.Names())
	}
}

// TestDocsStates: every state that status knows is explained, and no other.
func TestDocsStates(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, "internal/status/snapshot.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "State") {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Error(err)
			}
			states[text] = false
		}
		return true
	})
	if len(states) < 8 {
		t.Fatalf("only %d states in snapshot.go", len(states))
	}
	for _, cells := range rows(section(t, "Status")) {
		if _, known := states[code(cells[0])]; !known {
			t.Errorf("there is no state %s", cells[0])
		}
		states[code(cells[0])] = true
	}
	for state, explained := range states {
		if !explained {
			t.Errorf("the state %q is not explained", state)
		}
	}
}

// TestDocsMetrics: the README lists each metric with its labels, and no other.
func TestDocsMetrics(t *testing.T) {
	var want []string
	described := regexp.MustCompile(`describe\("(\w+)", "[^"]+"((?:, "?\w+"?)*)\)`)
	for _, m := range described.FindAllStringSubmatch(readDoc(t, "internal/status/metrics.go"), -1) {
		name := "balancer_" + m[1]
		if labels := strings.NewReplacer(", ", ",", `"`, "", "byService", "service", "byShard", "shard", "byBackend", "backend", "byTor", "tor").Replace(m[2]); labels != "" {
			name += "{" + labels[1:] + "}"
		}
		want = append(want, name)
	}
	if len(want) < 20 {
		t.Fatalf("only %d metrics found", len(want))
	}
	var got []string
	for _, cells := range rows(section(t, "Metrics")) {
		got = append(got, code(cells[0]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("documented are\n%s\nthere are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// texts gathers the string constants of a Go file, those that are put together
// with + as one, a line for each.
func texts(file *ast.File, into *strings.Builder) {
	ast.Inspect(file, func(n ast.Node) bool {
		expr, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		text, ok := constant(expr)
		if !ok {
			return true
		}
		into.WriteString(text)
		into.WriteByte('\n')
		return false
	})
}

// constant returns the value of a string literal, or of a sum of them in which
// other things may stand.
func constant(expr ast.Expr) (string, bool) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		return left + right, isLeft || isRight
	}
	return "", false
}

// TestDocsMessages: what the troubleshooting section quotes is what the program
// says.
func TestDocsMessages(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			texts(file, &source)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	list := rows(section(t, "Troubleshooting"))
	if len(list) < 20 {
		t.Fatalf("only %d messages", len(list))
	}
	for _, cells := range list {
		for part := range strings.SplitSeq(code(cells[0]), "…") {
			if part = strings.TrimSpace(part); !strings.Contains(source.String(), part) {
				t.Errorf("nothing says %q", part)
			}
		}
	}
}
