package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"onionbalancer/internal/child"
)

// contender is one of both programs.
type contender struct {
	name   string
	dir    string
	fronts []string // the public address of each start, with .onion
	// prepare writes what the program needs for a start to dir, and returns the
	// command.
	prepare func(dir string, turn int) ([]string, error)

	cmd    *exec.Cmd
	exited chan error
}

// newContenders builds balancer and returns it and OnionBalance, in this order.
func newContenders(ctx context.Context, a *arena) ([]*contender, error) {
	program := filepath.Join(a.dir, "balancer")
	build := exec.CommandContext(ctx, goTool, "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/balancer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building balancer: %w\n%s", err, said)
	}
	both := []*contender{
		{name: ours, prepare: func(dir string, turn int) ([]string, error) { return a.prepareOurs(program, dir, turn) }},
		{name: theirs, prepare: a.prepareTheirs},
	}
	for _, c := range both {
		c.dir = filepath.Join(a.dir, "run-"+c.name)
		for _, key := range a.keys[c.name] {
			c.fronts = append(c.fronts, key.Address().String())
		}
	}
	return both, nil
}

func (a *arena) prepareOurs(program, dir string, turn int) ([]string, error) {
	if err := a.keys[ours][turn].WriteTor(filepath.Join(dir, "front")); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("state_dir = \"state\"\n[tor]\ncontrol = %q\n[[service]]\nkey = \"front\"\n", a.net.Client(ours).ControlAddress()) +
		a.instanceList("[[service.instance]]\nname = %q\naddress = %q\n")
	path := filepath.Join(dir, "balancer.toml")
	return []string{program, "run", "--config", path}, os.WriteFile(path, []byte(config), 0o600)
}

func (a *arena) prepareTheirs(dir string, turn int) ([]string, error) {
	if err := a.keys[theirs][turn].WritePEM(filepath.Join(dir, "front.key")); err != nil {
		return nil, err
	}
	config := "services:\n- key: front.key\n  instances:\n" + a.instanceList("  - name: %s\n    address: %s\n")
	path := filepath.Join(dir, "config.yaml")
	host, port, err := net.SplitHostPort(a.net.Client(theirs).ControlAddress())
	if err != nil {
		return nil, err
	}
	return []string{"onionbalance", "--is-testnet", "-v", "info", "-i", host, "-p", port, "-s", filepath.Join(dir, "no-socket"), "-c", path},
		os.WriteFile(path, []byte(config), 0o600)
}

// start runs the program for the service of that turn.
func (c *contender) start(turn int) error {
	dir := filepath.Join(c.dir, fmt.Sprint(turn))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	command, err := c.prepare(dir, turn)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	exited := make(chan error, 1)
	if err := child.Start(c.cmd, syscall.SIGTERM, func(status error) { exited <- status }); err != nil {
		c.cmd = nil
		return err
	}
	c.exited = exited
	return nil
}

// running reports that the program has ended by itself, if it has.
func (c *contender) running() error {
	select {
	case err := <-c.exited:
		c.exited <- err
		return fmt.Errorf("%s ended: %v; see %s", c.name, err, c.dir)
	default:
		return nil
	}
}

// stop ends the program, if it runs, as an operator would. How it leaves does
// not matter here.
func (c *contender) stop() error {
	if c.cmd == nil {
		return nil
	}
	cmd := c.cmd
	c.cmd = nil
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.exited:
		return nil
	case <-time.After(10 * time.Second):
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.exited
	return nil
}
