package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"onionbalancer/bench/cputime"
	"onionbalancer/bench/harness"
)

// singleCore returns a command that runs on one core, always the same one.
func singleCore(ctx context.Context, name string, args ...string) *exec.Cmd {
	if core := pinnedCore(); core != "" {
		name, args = "taskset", append([]string{"-c", core, name}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return cmd
}

// goBenchmarks runs the Go benchmarks of our packages.
type goBenchmarks struct {
	dir      string
	binaries map[string]string // by package directory
}

// binary builds the tests of a package once.
func (g *goBenchmarks) binary(ctx context.Context, pkg string) (string, error) {
	if path, ok := g.binaries[pkg]; ok {
		return path, nil
	}
	path := filepath.Join(g.dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	build := exec.CommandContext(ctx, harness.GoTool, "test", "-c", "-o", path, "./"+pkg)
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the benchmarks of %s: %w\n%s", pkg, err, said)
	}
	g.binaries[pkg] = path
	return path, nil
}

// run returns the processor time in seconds that one operation of a benchmark
// takes.
func (g *goBenchmarks) run(ctx context.Context, pkg, benchmark string, each time.Duration) (float64, error) {
	measured, err := g.measure(ctx, pkg, benchmark, each)
	return measured[cputime.Metric], err
}

// measure returns all that a benchmark reports about one operation, in seconds,
// by the names that the testing package or the benchmark gives it, "…ns/op".
// The processor time is always there.
func (g *goBenchmarks) measure(ctx context.Context, pkg, benchmark string, each time.Duration) (map[string]float64, error) {
	binary, err := g.binary(ctx, pkg)
	if err != nil {
		return nil, err
	}
	cmd := singleCore(ctx, binary, "-test.run", "^$", "-test.bench", pattern(benchmark), "-test.benchtime", each.String())
	cmd.Dir = pkg
	said, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("running %s of %s: %w\n%s", benchmark, pkg, err, said)
	}
	measured, err := metrics(string(said))
	if err != nil {
		return nil, fmt.Errorf("running %s of %s: %w:\n%s", benchmark, pkg, err, said)
	}
	return measured, nil
}

// pattern matches one benchmark of those that a name begins.
func pattern(benchmark string) string {
	return "^" + strings.ReplaceAll(benchmark, "/", "$/^") + "$"
}

// metrics reads the line that a benchmark prints.
func metrics(said string) (map[string]float64, error) {
	measured := make(map[string]float64)
	fields := strings.Fields(said)
	for i, field := range fields {
		if i == 0 || !strings.HasSuffix(field, "ns/op") {
			continue
		}
		if _, ok := measured[field]; ok {
			return nil, errors.New("more than one benchmark has run")
		}
		n, err := strconv.ParseFloat(fields[i-1], 64)
		if err != nil {
			return nil, err
		}
		measured[field] = n / 1e9
	}
	if _, ok := measured[cputime.Metric]; !ok {
		return nil, fmt.Errorf("it reports no %s", cputime.Metric)
	}
	return measured, nil
}

// comparison is a row that takes processor time alone.
type comparison struct {
	name         string
	pkg          string
	benchmark    string
	primitives   string // benchmark of what cannot be avoided; none if empty
	onionBalance string // operation of onionbalance.py; none if empty

	faster   float64       // than OnionBalance, at least; 0 if there is no target
	overhead float64       // over the primitives, at most; 0 if there is no target
	within   time.Duration // at most; 0 if there is no target
}

// What OnionBalance does with its own classes is the same whether anything
// changed or not: it keeps nothing. Parsing, it verifies nothing.
var comparisons = []comparison{
	{name: "make a descriptor of 20 points, 42 signatures", pkg: "descriptor", benchmark: "BenchmarkEncode", primitives: "BenchmarkEncodePrimitives", onionBalance: "make", faster: 150, overhead: 1.3},
	{name: "… of unchanged points", pkg: "descriptor", benchmark: "BenchmarkEncodeKept", primitives: "BenchmarkEncodeKeptPrimitives", onionBalance: "make", faster: 800, overhead: 1.3},
	{name: "parse and decrypt 20 points, verifying nothing", pkg: "descriptor", benchmark: "BenchmarkRead", primitives: "BenchmarkReadPrimitives", onionBalance: "parse", faster: 20},
	{name: "… verifying 42 signatures", pkg: "descriptor", benchmark: "BenchmarkDecode", primitives: "BenchmarkDecodePrimitives", onionBalance: "parse", overhead: 1.3},
	{name: "… with known certificates", pkg: "descriptor", benchmark: "BenchmarkDecodeKnownPoints", primitives: "BenchmarkDecodeKnownPrimitives", onionBalance: "parse"},
	{name: "… the same bytes again", pkg: "descriptor", benchmark: "BenchmarkDecodeSame", onionBalance: "parse", faster: 20},
	{name: "consensus of 8,000 relays to both rings", pkg: "hsdir", benchmark: "BenchmarkConsensusToRings/cold", onionBalance: "rings", within: 60 * time.Millisecond},
	{name: "… 1 % of them changed", pkg: "hsdir", benchmark: "BenchmarkConsensusToRings/little-changed", onionBalance: "rings", within: 60 * time.Millisecond},
	{name: "… the same", pkg: "hsdir", benchmark: "BenchmarkConsensusToRings/same", onionBalance: "rings", within: 60 * time.Millisecond},
}

// measureProcessor goes through all comparisons, turn after turn.
func measureProcessor(ctx context.Context, o options) (rows []*result, err error) {
	dir, err := os.MkdirTemp("", "balancer-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f, err := makeFixture(dir)
	if err != nil {
		return nil, err
	}
	python, err := startOnionBalance(ctx, f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, python.close()) }()
	benchmarks := &goBenchmarks{dir: dir, binaries: map[string]string{}}
	for _, c := range comparisons {
		rows = append(rows, &result{Name: c.name, How: command(c.pkg, c.benchmark), Unit: unitSeconds})
	}
	for turn := range o.rounds {
		for i := range comparisons {
			harness.Progress("turn %d of %d: %s", turn+1, o.rounds, comparisons[i].name)
			if err := comparisons[i].turn(ctx, rows[i], benchmarks, python, o.each, turn%2 == 1); err != nil {
				return nil, err
			}
		}
	}
	for i := range comparisons {
		comparisons[i].judge(rows[i])
	}
	return rows, nil
}

// command is how a person runs one benchmark alone.
func command(pkg, benchmark string) string {
	return fmt.Sprintf("GOMAXPROCS=1 go test -run '^$' -bench '%s' ./%s", pattern(benchmark), pkg)
}

// turn measures all sides once; in every other turn the other way round.
func (c *comparison) turn(ctx context.Context, r *result, b *goBenchmarks, python *onionBalance, each time.Duration, reversed bool) error {
	ours := func() (float64, error) { return b.run(ctx, c.pkg, c.benchmark, each) }
	primitives := func() (float64, error) { return b.run(ctx, c.pkg, c.primitives, each) }
	theirs := func() (float64, error) { return python.run(c.onionBalance, each) }
	sides := []struct {
		there   bool
		measure func() (float64, error)
		into    *series
	}{{c.primitives != "", primitives, &r.Ideal}, {true, ours, &r.Ours}, {c.onionBalance != "", theirs, &r.OnionBalance}}
	for i := range sides {
		side := sides[i]
		if reversed {
			side = sides[len(sides)-1-i]
		}
		if !side.there {
			continue
		}
		took, err := side.measure()
		if err != nil {
			return err
		}
		*side.into = append(*side.into, took)
	}
	return nil
}

// judge compares with the targets.
func (c *comparison) judge(r *result) {
	if c.faster > 0 {
		what := fmt.Sprintf("%.0f times OnionBalance's rate", c.faster)
		if possible := r.OnionBalance.over(r.Ideal).median(); r.faster().median() < c.faster && possible < c.faster {
			what += fmt.Sprintf(" (the ideal would be %s)", digits(possible))
		}
		r.atLeast(what, r.faster().median(), c.faster)
	}
	if c.overhead > 0 {
		r.atMost(fmt.Sprintf("within %.1f of the ideal", c.overhead), r.overhead().median(), c.overhead)
	}
	if c.within > 0 {
		r.atMost(fmt.Sprintf("within %v", c.within), r.Ours.median(), c.within.Seconds())
	}
}
