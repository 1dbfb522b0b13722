package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A page is one question: a text in doc/research, and what makes its figures.
type page struct {
	name    string // of the text, without .md
	measure func(say progress) (figures, error)
	// slow says that measuring takes more than seconds.
	slow bool
}

// progress tells the one who waits what is being done.
type progress func(format string, args ...any)

// figures are all that a page shows. They are kept beside the text, so that it can
// be seen without measuring again that text and drawings are theirs.
type figures struct {
	Tables []table
	Charts []chart
}

// table stands in the text between two comments with its name.
type table struct {
	Name string
	Head []string
	Rows [][]string
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.Rows = append(t.Rows, row)
}

// markdown returns the table as it stands in the text.
func (t table) markdown() string {
	var b strings.Builder
	row := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(t.Head)
	b.WriteString(strings.Repeat("|---", len(t.Head)) + "|\n")
	for _, r := range t.Rows {
		row(r)
	}
	return b.String()
}

// markers are the comments around the table of that name.
func markers(name string) (begin, end string) {
	return "<!-- table " + name + " -->\n", "<!-- end " + name + " -->"
}

// fill puts the tables into the text.
func (f figures) fill(text string) (string, error) {
	for _, t := range f.Tables {
		begin, end := markers(t.Name)
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return "", fmt.Errorf("no place for the table %s", t.Name)
		}
		text = before + begin + t.markdown() + end + after
	}
	return text, nil
}

// encode returns the figures as they are kept, in one line.
func (f figures) encode() ([]byte, error) {
	raw, err := json.Marshal(f)
	return append(raw, '\n'), err
}

// write writes the figures, the drawings and the text's tables under dir.
func (p page) write(f figures, dir string) error {
	raw, err := f.encode()
	if err != nil {
		return fmt.Errorf("encoding figures: %w", err)
	}
	files := map[string]string{filepath.Join("figures", p.name+".json"): string(raw)}
	for _, c := range f.Charts {
		files[filepath.Join("figures", c.Name+".svg")] = c.svg()
	}
	name := p.name + ".md"
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("reading the text: %w", err)
	}
	if files[name], err = f.fill(string(text)); err != nil {
		return fmt.Errorf("filling in %s: %w", name, err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("writing figures: %w", err)
		}
	}
	return nil
}

// f1, f2 and f3 write a figure with so many decimals.
func f0(v float64) string { return fmt.Sprintf("%.0f", v) }
func f1(v float64) string { return fmt.Sprintf("%.1f", v) }
func f2(v float64) string { return fmt.Sprintf("%.2f", v) }
func f3(v float64) string { return fmt.Sprintf("%.3f", v) }
