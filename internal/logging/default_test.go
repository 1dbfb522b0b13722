package logging

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constructors are the functions of package slog that log nothing by themselves
// and do not use its default logger.
var constructors = []string{
	"New", "NewTextHandler", "NewJSONHandler", "NewLogLogger", "NewMultiHandler", "NewRecord",
	"Any", "Bool", "Duration", "Float64", "Group", "GroupAttrs", "Int", "Int64", "String", "Time", "Uint64",
	"AnyValue", "BoolValue", "DurationValue", "Float64Value", "GroupValue", "Int64Value", "IntValue", "StringValue", "TimeValue", "Uint64Value",
	"Level", // a conversion
}

// TestNoDefaultLogger: a package logs to the logger that it was given. Nothing
// sets the default loggers of slog and log, so what is written there is lost, or
// ignores the configured level and format.
func TestNoDefaultLogger(t *testing.T) {
	const repository = "../.."
	files := 0
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != repository && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		for _, call := range defaultLogging(t, path, nil) {
			t.Error(call)
		}
		return nil
	})
	if err != nil || files < 50 {
		t.Fatalf("%d files: %v", files, err)
	}
	bad := "package p\nimport (\"log\"; s \"log/slog\")\nfunc f() { s.Warn(\"\"); s.With(\"\").Info(\"\"); log.Print(); s.New(nil).Info(\"\") }"
	if found := defaultLogging(t, "bad.go", bad); len(found) != 3 {
		t.Errorf("found in a bad file: %q", found)
	}
}

// defaultLogging returns the calls in a file that log to a default logger.
func defaultLogging(t *testing.T, path string, source any) (found []string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // of the packages in this file
	for _, spec := range file.Imports {
		if path, _ := strconv.Unquote(spec.Path.Value); path == "log" || path == "log/slog" {
			name := filepath.Base(path)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			names[name] = path
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok {
			return true
		}
		function, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		name, ok := function.X.(*ast.Ident)
		if ok && names[name.Name] != "" && !slices.Contains(constructors, function.Sel.Name) {
			found = append(found, files.Position(call.Pos()).String()+": "+name.Name+"."+function.Sel.Name)
		}
		return true
	})
	return found
}
