package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// detachLab runs the same command again in the background, without --detach,
// and waits until it has a network up.
func detachLab(cmd *cobra.Command, dir string, asJSON bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the test network's directory: %w", err)
	}
	state, err := readLabState(dir)
	if err != nil {
		return err
	}
	if state.State != "down" {
		return fmt.Errorf("%s: %w; \"balancer testnet down\" ends it", dir, errLocked)
	}
	child, log, err := startInBackground(dir, os.Args[1:])
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	line := newProgressLine(cmd.ErrOrStderr(), false)
	defer line.clear()
	for {
		select {
		case <-cmd.Context().Done():
			child.Process.Signal(syscall.SIGTERM)
			return errors.Join(cmd.Context().Err(), <-ended)
		case err := <-ended:
			said, _ := os.ReadFile(log)
			return fmt.Errorf("the test network did not come up: %w\n%s", err, said)
		case <-time.After(200 * time.Millisecond):
		}
		state, err := readLabState(dir)
		if err != nil {
			return err
		}
		if state.State == "up" {
			line.clear()
			return printLab(cmd, state, asJSON)
		}
		line.tell(state.Progress)
	}
}

// startInBackground runs our own program in a session of its own, with its
// output in a file, whose path is returned.
func startInBackground(dir string, args []string) (*exec.Cmd, string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("finding our own program: %w", err)
	}
	path := filepath.Join(dir, "up.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("starting in the background: %w", err)
	}
	defer log.Close()
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return arg == "--detach" || arg == "--detach=true"
	})
	child := exec.Command(program, args...)
	child.Stdout, child.Stderr = log, log
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return nil, "", fmt.Errorf("starting in the background: %w", err)
	}
	return child, path, nil
}
