package main

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
		source := testSource(t, c.pkg)
		for _, name := range []string{c.benchmark, c.primitives} {
			function, sub, _ := strings.Cut(name, "/")
			if name != "" && !strings.Contains(source, "func "+function+"(b *testing.B)") ||
				sub != "" && !strings.Contains(source, `b.Run("`+sub+`"`) {
				t.Errorf("%s is not in %s", name, c.pkg)
			}
		}
		if !strings.Contains(onionBalanceScript, "\n    def "+c.onionBalance+"(self):") {
			t.Errorf("the script has no operation %q", c.onionBalance)
		}
	}
}

// TestCustodies runs every benchmark of the table of custodians for a moment.
func TestCustodies(t *testing.T) {
	t.Chdir("..")
	benchmarks := &goBenchmarks{dir: t.TempDir(), binaries: map[string]string{}}
	for _, c := range custodies {
		r := new(custodyResult)
		if err := c.turn(t.Context(), r, benchmarks, time.Millisecond); err != nil {
			t.Error(err)
			continue
		}
		inToken := strings.Contains(c.benchmark, "/sealed/") || strings.HasSuffix(c.benchmark, "/token")
		if r.Clock[0] <= 0 || r.Ours[0] <= 0 || (r.Helper[0] > 0) != inToken {
			t.Errorf("%s took %v s, %v of our processor time and %v of a helper's", c.benchmark, r.Clock, r.Ours, r.Helper)
		}
	}
}

func TestMetrics(t *testing.T) {
	const said = "goos: linux\nBenchmarkSign/token \t 2000\t 31000 ns/op\t 20000 children-cpu-ns/op\t 9000.5 cpu-ns/op\nPASS\n"
	got, err := metrics(said)
	want := map[string]float64{"ns/op": 31e-6, "children-cpu-ns/op": 20e-6, "cpu-ns/op": 9.0005e-6}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "PASS", "Benchmark 1 31000 ns/op", said + said, "Benchmark x cpu-ns/op", "cpu-ns/op"} {
		if got, err := metrics(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
	if got := pattern("BenchmarkCertify/sealed/aes-gcm"); got != "^BenchmarkCertify$/^sealed$/^aes-gcm$" {
		t.Errorf("pattern %q", got)
	}
}

func TestPrintCustody(t *testing.T) {
	var out strings.Builder
	printCustody(&out, []*custodyResult{
		{Name: "on disk", Clock: series{2e-4, 1e-4, 4e-4}, Ours: series{1e-4}, Helper: series{0}},
		{Name: "in the token", Clock: series{0.03}, Ours: series{1e-5}, Helper: series{2e-5}},
	})
	for _, want := range []string{
		"\non disk       5000        200 µs        100 µs          -\n",
		"\nin the token  33.3        30 ms         10 µs           20 µs\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
}

// testSource returns the tests of a package as one text.
func testSource(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests (%v)", pkg, err)
	}
	var source strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	return source.String()
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
