// Package harness is what the programs of the benchmarks share.
package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// GoTool is the go command, which the environment may name.
var GoTool = cmp.Or(os.Getenv("GO"), "go")

// Build builds balancer in dir, without cgo, and returns the program's path.
func Build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "balancer")
	build := exec.CommandContext(ctx, GoTool, "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/balancer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building balancer: %w\n%s", err, said)
	}
	return program, nil
}

// BuildTest builds the test binary of a package in dir, and returns its path.
func BuildTest(dir, pkg string) (string, error) {
	binary := filepath.Join(dir, "package.test")
	if said, err := exec.Command(GoTool, "test", "-c", "-o", binary, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the test of %s: %w\n%s", pkg, err, said)
	}
	return binary, nil
}

// Figures runs one test of a test binary, with more in its environment, and decodes the line
// of JSON that it prints behind mark.
func Figures(binary, test, timeout, mark string, figures any, env ...string) error {
	cmd := exec.Command(binary, "-test.run", "^"+test+"$", "-test.timeout", timeout)
	cmd.Env = append(os.Environ(), env...)
	said, err := cmd.CombinedOutput()
	_, rest, found := strings.Cut(string(said), mark)
	line, _, _ := strings.Cut(rest, "\n")
	if err == nil && !found {
		err = errors.New("it printed no figures")
	}
	if err == nil {
		err = json.Unmarshal([]byte(line), figures)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}

// OnionBalance is the command that runs OnionBalance on a test network, with tor's control
// port at "host:port".
func OnionBalance(control, config string) (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(control)
	if err != nil {
		return nil, err
	}
	return exec.Command("onionbalance", "--is-testnet", "-v", "info", "-i", host, "-p", port,
		"-s", filepath.Join(filepath.Dir(config), "no-socket"), "-c", config), nil
}

// Progress says on standard error what is going on, if somebody looks on.
func Progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
	}
}

// ClearProgress removes the line that Progress has written.
func ClearProgress() { Progress("") }

// Machine names the processor.
func Machine() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range bytes.Lines(text) {
		if key, value, ok := bytes.Cut(line, []byte{':'}); ok && bytes.HasPrefix(key, []byte("model name")) {
			return fmt.Sprintf("%d × %s", runtime.NumCPU(), bytes.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}

// InDirectory calls do with a directory for logs: keep, or else a temporary one for the
// program of that name, which is removed unless do fails.
func InDirectory(keep, program string, do func(dir string) error) (err error) {
	dir := keep
	if keep == "" {
		if dir, err = os.MkdirTemp("", program+"-"); err != nil {
			return err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	switch err := do(dir); {
	case keep != "":
		return err
	case err != nil:
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	return os.RemoveAll(dir)
}
