package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
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

// unwired are keys that are read but have no effect yet, and no documentation.
var unwired = []string{"service.clients", "service.caa"}

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
		case !isKey || slices.Contains(unwired, name):
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
