package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSeries(t *testing.T) {
	for _, c := range []struct {
		in   series
		want float64
	}{{series{3}, 3}, {series{9, 1, 2}, 2}, {series{4, 1, 2, 9}, 3}} {
		if got := c.in.median(); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.in, got, c.want)
		}
	}
	if !math.IsNaN(series(nil).median()) {
		t.Error("nothing has a median")
	}
	// Turn by turn, not median by median: 4 and 2.
	if got := (series{8, 2}).over(series{2, 1}).median(); got != 3 {
		t.Errorf("ratio %v, want 3", got)
	}
	text, err := json.Marshal(result{Ours: series{1, 5}})
	if err != nil || !strings.Contains(string(text), `"ours":{"max":5,"median":3,"min":1,"turns":[1,5]},"ideal":null`) {
		t.Errorf("JSON %s, %v", text, err)
	}
}

func TestVerdict(t *testing.T) {
	c := comparison{faster: 20, overhead: 1.3, within: 1e9}
	r := &result{Ours: series{0.1}, OnionBalance: series{1}, Ideal: series{0.09}}
	c.judge(r)
	const want = "NOT MET: 20 times OnionBalance's rate (the ideal would be 11.1); met: within 1.3 of the ideal; met: within 1s"
	if got := r.verdict(); got != want {
		t.Errorf("verdict %q, want %q", got, want)
	}
}

// TestComparisonsExist finds every benchmark in the package that it is said to
// be in, and every operation in the script.
func TestComparisonsExist(t *testing.T) {
	for _, c := range comparisons {
		files, err := filepath.Glob(filepath.Join("..", c.pkg, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no tests (%v)", c.pkg, err)
		}
		var source strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
		for _, name := range []string{c.benchmark, c.primitives} {
			function, sub, _ := strings.Cut(name, "/")
			if name != "" && !strings.Contains(source.String(), "func "+function+"(b *testing.B)") ||
				sub != "" && !strings.Contains(source.String(), `b.Run("`+sub+`"`) {
				t.Errorf("%s is not in %s", name, c.pkg)
			}
		}
		if !strings.Contains(onionBalanceScript, "\n    def "+c.onionBalance+"(self):") {
			t.Errorf("the script has no operation %q", c.onionBalance)
		}
	}
}

func TestFixture(t *testing.T) {
	address, raw, err := makeInstance()
	if err != nil {
		t.Fatal(err)
	}
	// The size that descriptors of twenty introduction points have.
	if len(address) != 56+len(".onion") || len(raw) < 40000 || len(raw) >= 50000 {
		t.Errorf("%d bytes for %s", len(raw), address)
	}
}
