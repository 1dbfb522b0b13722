package main

import (
	"cmp"
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

// goTool is the go command, which the environment may name.
var goTool = cmp.Or(os.Getenv("GO"), "go")

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
	build := exec.CommandContext(ctx, goTool, "test", "-c", "-o", path, "./"+pkg)
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
