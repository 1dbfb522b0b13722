package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

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
