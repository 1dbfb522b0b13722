package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestDocsLinks: what is linked to is there.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	for _, name := range docFiles(t) {
		for _, m := range link.FindAllStringSubmatch(readDoc(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := name
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(name), m[1])
			}
			text := readDoc(t, target)
			anchors := []string{""}
			for _, h := range heading.FindAllStringSubmatch(text, -1) {
				anchors = append(anchors, "#"+anchor(h[1]))
			}
			if !slices.Contains(anchors, m[2]) {
				t.Errorf("%s: no heading for %s%s", name, m[1], m[2])
			}
		}
	}
}

// anchor makes a heading's anchor as the usual renderers do.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, heading)
}

// TestDocsMake: every "make TARGET" that the documentation tells people to type
// is in the Makefile.
func TestDocsMake(t *testing.T) {
	makefile := readDoc(t, "Makefile")
	target := regexp.MustCompile("(?m)(?:^ *|`)make ([a-z]+)")
	for _, name := range docFiles(t) {
		for _, m := range target.FindAllStringSubmatch(readDoc(t, name), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: the Makefile has no target %q", name, m[1])
			}
		}
	}
}

// TestDocsGoTest: the packages and tests named in "go test" lines exist.
func TestDocsGoTest(t *testing.T) {
	seen := 0
	for _, name := range docFiles(t) {
		for line := range strings.Lines(readDoc(t, name)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			if len(words) < 3 || words[0] != "go" || words[1] != "test" {
				continue
			}
			seen++
			dir := ""
			for i, word := range words {
				if strings.HasPrefix(word, "./") {
					dir = word
					if _, err := os.Stat(filepath.Join(repository, dir)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if word == "-run" || word == "-fuzz" {
					checkTestExists(t, dir, words[i+1])
				}
			}
		}
	}
	if seen < 3 {
		t.Errorf("%d lines with \"go test\", want at least 3", seen)
	}
}

func checkTestExists(t *testing.T, dir, name string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "\nfunc "+name+"(") {
			return
		}
	}
	t.Errorf("%s has no %s", dir, name)
}
