package selection

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the examples of the page for operators: every strategy has a
// section with a table of what instances offer, and what comes of it.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(page), "\n## ")[1:]
	var names []string
	for _, section := range sections {
		name, text, _ := strings.Cut(section, "\n")
		names = append(names, name)
		t.Run(name, func(t *testing.T) {
			s, err := Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			runExample(t, s, text)
		})
	}
	if !slices.Equal(names, Names()) {
		t.Errorf("sections %q, want %q", names, Names())
	}
}

// example is one row of a table.
type example map[string]string

func (e example) number(t *testing.T, column string, without int) int {
	t.Helper()
	text, ok := e[column]
	if !ok {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", column, err)
	}
	return n
}

// parseExamples reads the rows of the table in text.
func parseExamples(text string) (rows []example) {
	var columns []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		if columns == nil {
			columns = cells
			continue
		}
		row := make(example)
		for i, cell := range cells {
			row[columns[i]] = cell
		}
		rows = append(rows, row)
	}
	return rows
}

// setting returns the value that text gives a key of the configuration.
func setting(t *testing.T, text, key string, otherwise int) int {
	t.Helper()
	found := regexp.MustCompile("\nWith `" + key + ` = (\d+)`).FindStringSubmatch(text)
	if found == nil {
		return otherwise
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func runExample(t *testing.T, s Strategy, text string) {
	rows := parseExamples(text)
	if len(rows) == 0 {
		t.Fatal("no example")
	}
	room := Room{setting(t, text, "max_introduction_points", 20), setting(t, text, "points_per_instance", 3)}
	var pool []Candidate
	rowOf := make(map[[32]byte]int)
	for n, row := range rows {
		for range row.number(t, "offers", 0) {
			c := candidate(row["instance"], len(pool), len(pool))
			c.Weight = float64(row.number(t, "weight", 1))
			if load := float64(row.number(t, "load", -1)); load >= 0 {
				c.Load = &load
			}
			c.FirstSeen = epoch.Add(-time.Duration(row.number(t, "hours old", 0)) * time.Hour)
			rowOf[c.Point.AuthKey] = n
			pool = append(pool, c)
		}
	}
	for seed := range byte(20) {
		a := Assign(s, Request{Now: epoch, Candidates: pool, Slots: ring(), Room: room, Seed: [32]byte{seed}})
		published := make(map[[32]byte]bool)
		for _, points := range a.Points {
			for _, c := range points {
				published[c.Point.AuthKey] = true
			}
		}
		counts := make([]int, len(rows))
		for key := range published {
			counts[rowOf[key]]++
		}
		for n, row := range rows {
			if got := strconv.Itoa(counts[n]); got != row["published"] {
				t.Fatalf("%s, row %d: published %s, want %s", row["instance"], n+1, got, row["published"])
			}
			if want, ok := row["clients"]; ok && fmt.Sprintf("%.0f %%", 100*a.Shares()[row["instance"]]) != want {
				t.Fatalf("%s: shares %v, want %s", row["instance"], a.Shares(), want)
			}
		}
	}
}
