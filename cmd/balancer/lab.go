package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"onionbalancer/testnet/lab"
)

// publicLab is a lab with a public service's key and configuration. Only the
// balancer itself is missing.
type publicLab struct {
	*lab.Lab
	front  string // the public address
	config string // for "balancer run"
}

// startLab makes a lab in dir and waits until its services are published. The
// key that an earlier lab in dir had is used again. options are lines of the service
// in the balancer's configuration, to which more is added.
func startLab(ctx context.Context, dir string, config lab.Config, options, more string, tell func(string)) (*publicLab, error) {
	front, err := labKey(filepath.Join(dir, "front"))
	if err != nil {
		return nil, err
	}
	config.Dir, config.Tell, config.Masters = dir, tell, []string{front}
	l := &publicLab{front: front, config: filepath.Join(dir, "balancer.toml")}
	if l.Lab, err = lab.Start(ctx, config); err != nil {
		return nil, err
	}
	text := "# For the test network beside this file, which it does not outlive.\n# The address is " + front + "\n" + l.BalancerConfig("front", options) + more
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the balancer's configuration: %w", err), l.Stop())
	}
	return l, nil
}

// labKey makes the public service's key unless there is one, and returns the
// address.
func labKey(dir string) (string, error) {
	open := showKey
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		open = makeKey
	}
	shown, err := open(dir)
	if err != nil {
		return "", err
	}
	return shown.Address, nil
}
