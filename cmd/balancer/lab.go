package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/testnet"
)

// The names of the tors of a lab that are no relays and no services.
const (
	labClient  = "client"
	labManager = "manager"
)

// lab is what "testnet up" and "demo" set up: a private Tor network, a public
// service's key and configuration, and instances of that service. Only the
// balancer itself is missing.
type lab struct {
	dir       string // absolute
	net       *testnet.Network
	front     string // the public address
	key       string // the public service's key, a directory
	config    string // for "balancer run"
	instances []*testnet.Service
	services  []*testnet.Service // ordinary ones
}

// labConfig is how large a lab is.
type labConfig struct {
	network   testnet.Config
	instances int
	services  int
	timeout   time.Duration
}

// startLab makes a lab in dir and waits until its services are published. The
// key that an earlier lab in dir had is used again.
func startLab(ctx context.Context, dir string, config labConfig, tell func(string)) (_ *lab, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, config.timeout,
		fmt.Errorf("the test network was not up after %v: is the machine very busy?", config.timeout))
	defer cancel()
	l := &lab{key: filepath.Join(dir, "front"), config: filepath.Join(dir, "balancer.toml")}
	if l.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if l.front, err = labKey(l.key); err != nil {
		return nil, err
	}
	config.network.Dir = filepath.Join(l.dir, "net")
	if err := os.RemoveAll(config.network.Dir); err != nil {
		return nil, fmt.Errorf("removing an earlier test network: %w", err)
	}
	config.network.Clients = []string{labClient, labManager}
	config.network.Progress = func(p testnet.Progress) { tell(p.String()) }
	if l.net, err = testnet.Start(ctx, config.network); err != nil {
		return nil, err
	}
	if err := l.startServices(ctx, config, tell); err != nil {
		return nil, errors.Join(err, l.net.Stop())
	}
	if err := os.WriteFile(l.config, []byte(l.balancerConfig()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the balancer's configuration: %w", err), l.net.Stop())
	}
	return l, nil
}

// labKey makes the public service's key unless there is one, and returns the
// address.
func labKey(dir string) (string, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		made, err := makeKey(dir)
		if err != nil {
			return "", err
		}
		return made.Address, nil
	}
	shown, err := showKey(dir)
	if err != nil {
		return "", err
	}
	return shown.Address, nil
}

// startServices starts instances and ordinary services, each with its own tor,
// and waits until HSDirs have their descriptors.
func (l *lab) startServices(ctx context.Context, config labConfig, tell func(string)) error {
	l.instances = make([]*testnet.Service, config.instances)
	l.services = make([]*testnet.Service, config.services)
	tell(fmt.Sprintf("starting %d instances and %d ordinary services", config.instances, config.services))
	group, ctx := errgroup.WithContext(ctx)
	start := func(into **testnet.Service, c testnet.ServiceConfig) {
		group.Go(func() (err error) {
			if *into, err = l.net.Service(ctx, c); err != nil {
				return err
			}
			return (*into).Published(ctx)
		})
	}
	for i := range l.instances {
		start(&l.instances[i], testnet.ServiceConfig{Name: fmt.Sprintf("web%d", i+1), Masters: []string{l.front}})
	}
	for i := range l.services {
		start(&l.services[i], testnet.ServiceConfig{Name: fmt.Sprintf("plain%d", i+1)})
	}
	return group.Wait()
}

// balancerConfig is a configuration for "balancer run" with all instances.
func (l *lab) balancerConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# For the test network beside this file, which it does not outlive.\n")
	fmt.Fprintf(&b, "state_dir = \"state\"\n\n[tor]\ncontrol = %q\n\n", l.net.ControlTarget(labManager))
	fmt.Fprintf(&b, "[[service]] # %s\nkey = %q\n", l.front, filepath.Base(l.key))
	for _, s := range l.instances {
		fmt.Fprintf(&b, "\n  [[service.instance]]\n  name = %q\n  address = %q\n", s.Name(), s.Address())
	}
	return b.String()
}
