package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"onionbalancer/bench/report"
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

// What a page shows.
type (
	chart  = report.Chart
	axis   = report.Axis
	series = report.Series
	table  = report.Table
)

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
		files[filepath.Join("figures", c.Name+".svg")] = c.SVG()
	}
	name := p.name + ".md"
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("reading the text: %w", err)
	}
	if files[name], err = report.Fill(string(text), f.Tables...); err != nil {
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
