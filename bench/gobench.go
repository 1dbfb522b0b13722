package main

import (
	"cmp"
	"context"
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
	binary, err := g.binary(ctx, pkg)
	if err != nil {
		return 0, err
	}
	cmd := singleCore(ctx, binary, "-test.run", "^$", "-test.bench", "^"+strings.ReplaceAll(benchmark, "/", "$/^")+"$", "-test.benchtime", each.String())
	cmd.Dir = pkg
	said, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("running %s of %s: %w\n%s", benchmark, pkg, err, said)
	}
	fields := strings.Fields(string(said))
	for i, field := range fields {
		if field == cputime.Metric {
			n, err := strconv.ParseFloat(fields[i-1], 64)
			return n / 1e9, err
		}
	}
	return 0, fmt.Errorf("running %s of %s: it reports no %s:\n%s", benchmark, pkg, cputime.Metric, said)
}
