package report

import (
	"fmt"
	"strings"
)

// Table stands in the text between two comments with its name.
type Table struct {
	Name string
	Head []string
	Rows [][]string
}

// Add appends a row.
func (t *Table) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.Rows = append(t.Rows, row)
}

// Markdown returns the table as it stands in the text.
func (t Table) Markdown() string {
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

// Fill puts the tables into the text.
func Fill(text string, tables ...Table) (string, error) {
	for _, t := range tables {
		begin, end := markers(t.Name)
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return "", fmt.Errorf("no place for the table %s", t.Name)
		}
		text = before + begin + t.Markdown() + end + after
	}
	return text, nil
}
