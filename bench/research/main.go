// Command research makes the figures of doc/research again: it simulates what the
// pages are about, and writes their tables and drawings. It runs in the module's
// root, and gives the same figures on every run.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// pages are in the order of the index.
var pages = []page{
	{name: "which-selection", measure: measureWhich, slow: true},
	{name: "any-number", measure: measureNumber, slow: true},
	{name: "fixed-points", measure: measureFixed, slow: true},
	{name: "stale-reads", measure: measureStale, slow: true},
	{name: "chosen-relays", measure: measureChosen},
}

func main() {
	asJSON := flag.Bool("json", false, "print the figures as JSON, and write nothing")
	dir := flag.String("dir", "doc/research", "the directory of the pages")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go run ./bench/research [-json] [-dir DIR] [PAGE...]")
		flag.PrintDefaults()
		fmt.Fprintln(os.Stderr, "pages:", strings.Join(names(), ", "))
	}
	flag.Parse()
	if err := run(flag.Args(), *dir, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "research:", err)
		os.Exit(1)
	}
}

func names() (names []string) {
	for _, p := range pages {
		names = append(names, p.name)
	}
	return names
}

// run measures the pages of these names, or all.
func run(wanted []string, dir string, asJSON bool) error {
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("no page %q, want some of %s", name, strings.Join(names(), ", "))
		}
	}
	for _, p := range pages {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		began := time.Now()
		f, err := p.measure(func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, fmt.Sprintf(format, args...))
		})
		if err != nil {
			return fmt.Errorf("measuring %s: %w", p.name, err)
		}
		if asJSON {
			raw, err := f.encode()
			if err != nil {
				return fmt.Errorf("encoding the figures of %s: %w", p.name, err)
			}
			os.Stdout.Write(raw)
			continue
		}
		if err := p.write(f, dir); err != nil {
			return fmt.Errorf("writing %s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: written in %.1f s\n", p.name, time.Since(began).Seconds())
	}
	return nil
}
