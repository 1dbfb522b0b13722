package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"onionbalancer/bench/report"
)

const docs = "../../doc/research"

func read(t *testing.T, name ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(name...))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestPagesShowTheirFigures holds texts and drawings to the figures beside them.
func TestPagesShowTheirFigures(t *testing.T) {
	drawn := 0
	for _, p := range pages {
		var f figures
		if err := json.Unmarshal([]byte(read(t, docs, "figures", p.name+".json")), &f); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		text := read(t, docs, p.name+".md")
		filled, err := report.Fill(text, f.Tables...)
		if err != nil || filled != text {
			t.Errorf("%s: the text does not show the tables that were measured (%v): go run ./bench/research %[1]s", p.name, err)
		}
		for _, c := range f.Charts {
			drawn++
			svg := read(t, docs, "figures", c.Name+".svg")
			if c.SVG() != svg {
				t.Errorf("%s.svg is not what was measured: go run ./bench/research %s", c.Name, p.name)
			}
			if !strings.Contains(text, "](figures/"+c.Name+".svg)") {
				t.Errorf("%s.md does not show %s.svg", p.name, c.Name)
			}
			wellFormed(t, c.Name, svg)
		}
	}
	files, err := filepath.Glob(filepath.Join(docs, "figures", "*.svg"))
	if err != nil || len(files) != drawn || drawn == 0 {
		t.Errorf("%d drawings for %d charts (%v)", len(files), drawn, err)
	}
}

func wellFormed(t *testing.T, name, svg string) {
	t.Helper()
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("%s.svg has a figure that is none", name)
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("%s.svg: %v", name, err)
			return
		}
	}
}

// TestFiguresAgain measures again and expects the same figures; what takes longer
// than seconds with BALANCER_SOAK=1.
func TestFiguresAgain(t *testing.T) {
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			if p.slow && os.Getenv("BALANCER_SOAK") == "" {
				t.Skip("takes long: BALANCER_SOAK=1")
			}
			f, err := p.measure(t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := f.encode()
			if err != nil || string(raw) != read(t, docs, "figures", p.name+".json") {
				t.Errorf("other figures than before (%v): go run ./bench/research %s", err, p.name)
			}
		})
	}
}

// TestLinks follows every link of the pages, and those of the manual to them.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	texts, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil || len(texts) == 0 {
		t.Fatalf("no pages (%v)", err)
	}
	for _, name := range texts {
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			if _, err := os.Stat(filepath.Join(docs, m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", filepath.Base(name), m[1])
			}
		}
	}
	index := read(t, docs, "README.md")
	for _, name := range texts {
		if base := filepath.Base(name); base != "README.md" && !strings.Contains(index, "]("+base+")") {
			t.Errorf("the index does not name %s", base)
		}
	}
	for name, want := range map[string]string{"../../README.md": "](doc/research/README.md)", "../../doc/design.md": "](research/README.md)"} {
		if !strings.Contains(read(t, name), want) {
			t.Errorf("%s does not link to the pages", name)
		}
	}
}

// TestStaleByHand checks what readers meet on a ring that is known.
func TestStaleByHand(t *testing.T) {
	c := public
	c.services, c.relays, c.days = 4, 100, 1
	if n := c.simulate(1); n.none != [3]int{} || n.older != [3]int{} || n.all == 0 {
		t.Errorf("a ring that does not change: %+v", n)
	}
	c.churn, c.readerEarly = 0.05, true
	behind := c.simulate(1)
	if behind.none[0] == 0 || behind.none[1] >= behind.none[0] || behind.none[2] > behind.none[1] {
		t.Errorf("readers who are ahead find nothing: %+v; more who are asked must help", behind)
	}
	c.early, c.readerEarly = true, false
	ahead := c.simulate(1)
	c.previous = 2
	served := c.simulate(1)
	if ahead.older[0] == 0 || served.older[0] != 0 || served.uploads <= 8*served.editions {
		t.Errorf("a publisher who is ahead leaves old answers: %+v, and none when it serves the rings before: %+v", ahead, served)
	}
}
