package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/bench/harness"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

const (
	relays    = 20
	instances = 60
	each      = 10 // instances that a tor runs

	// votingInterval is the longest that a network may have here: as little as
	// possible happens by itself.
	votingInterval = 30 * time.Minute

	patience = 10 * time.Minute // for the start
)

// way is one way to check.
type way struct{ name, config string }

// ways are all of them. The first one does not check.
var ways = []way{
	{"none", "kind = \"none\"\n"},
	{"the default: tcp, 30 s", ""},
	{"tcp, 10 s", "interval = \"10s\"\n"},
	{"http, 10 s", "kind = \"http\"\ninterval = \"10s\"\n"},
}

// field is the network with all balancers.
type field struct {
	*lab.Lab
	balancers []*balancer
}

// startField starts the network, the instances and all balancers.
func startField(ctx context.Context, dir string) (f *field, err error) {
	f = new(field)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
			f = nil
		}
	}()
	var fronts []string
	for _, w := range ways {
		key, err := keystore.New(rand.Reader)
		if err != nil {
			return f, err
		}
		f.balancers = append(f.balancers, &balancer{way: w, key: key})
		fronts = append(fronts, key.Address().String())
	}
	tell := func(what string) { harness.Progress("%s", what) }
	f.Lab, err = lab.Start(ctx, lab.Config{
		Dir: dir, Network: testnet.Config{Relays: relays, VotingInterval: votingInterval}, Timeout: patience, Tell: tell,
	})
	if err != nil {
		return f, err
	}
	tell(fmt.Sprintf("starting %d instances", instances))
	if err := f.startInstances(ctx, fronts); err != nil {
		return f, err
	}
	program, err := harness.Build(ctx, f.Dir)
	if err != nil {
		return f, err
	}
	torrc, err := f.JoiningTorrc()
	if err != nil {
		return f, err
	}
	for i, b := range f.balancers {
		b.dir = filepath.Join(f.Dir, fmt.Sprint("balancer", i+1))
		if err := b.start(program, torrc, f.List("\n  [[service.instance]]\n  name = %q\n  address = %q\n")); err != nil {
			return f, err
		}
	}
	return f, nil
}

// startInstances starts all instances, several of them in each tor, and waits until they
// are published.
func (f *field) startInstances(ctx context.Context, fronts []string) error {
	f.Instances = make([]*testnet.Service, instances)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for first := 0; first < instances; first += each {
		group.Go(func() error {
			var configs []testnet.ServiceConfig
			for n := range each {
				configs = append(configs, testnet.ServiceConfig{Name: fmt.Sprintf("web%d", first+n+1), Masters: fronts})
			}
			services, err := f.Net.Services(ctx, fmt.Sprintf("webs%d", first/each+1), configs...)
			if err != nil {
				return err
			}
			copy(f.Instances[first:], services)
			for _, s := range services {
				if err := s.Published(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// settle waits until all balancers have published and found all instances up, and then
// until they make their checks in the usual rhythm.
func (f *field) settle(ctx context.Context) error {
	settling, cancel := context.WithTimeoutCause(ctx, patience, errors.New("not all instances are up and published: is the machine very busy?"))
	defer cancel()
	for _, b := range f.balancers {
		harness.Progress("waiting for the balancer of %s", b.way.name)
		if _, err := lab.Await(settling, b.socket(), b.settled); err != nil {
			return fmt.Errorf("waiting for the balancer of %s: %w", b.way.name, err)
		}
		if err := b.connect(settling); err != nil {
			return fmt.Errorf("connecting to the tor of the balancer of %s: %w", b.way.name, err)
		}
	}
	if !backoff.Sleep(ctx, time.Minute) {
		return context.Cause(ctx)
	}
	return nil
}

// take reads all counts.
func (f *field) take(ctx context.Context) (all []counts, err error) {
	for _, b := range f.balancers {
		c, err := b.take(ctx)
		if err != nil {
			return nil, fmt.Errorf("measuring the balancer of %s: %w", b.way.name, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// stop ends everything.
func (f *field) stop() (err error) {
	for _, b := range f.balancers {
		err = errors.Join(err, b.stop())
	}
	if f.Lab != nil {
		err = errors.Join(err, f.Lab.Stop())
	}
	return err
}

// start writes the balancer's files and starts it.
func (b *balancer) start(program, torrc, list string) (err error) {
	// As every other tor of the network.
	torrc += "LearnCircuitBuildTimeout 0\nCircuitBuildTimeout 3\n"
	var text strings.Builder
	fmt.Fprintf(&text, "state_dir = \"state\"\n\n[tor]\ntorrc = \"joining.torrc\"\n\n[check]\n%s", b.way.config)
	// As on the public network.
	fmt.Fprintf(&text, "\n[[service]]\nkey = \"front\"\nfetch_interval = \"2m\"\n%s", list)
	path := filepath.Join(b.dir, "balancer.toml")
	err = errors.Join(os.RemoveAll(b.dir), os.MkdirAll(b.dir, 0o700), b.key.WriteTor(filepath.Join(b.dir, "front")),
		os.WriteFile(filepath.Join(b.dir, "joining.torrc"), []byte(torrc), 0o600),
		os.WriteFile(path, []byte(text.String()), 0o600))
	if err != nil {
		return err
	}
	b.run, err = lab.Run(exec.Command(program, "run", "--config", path), filepath.Join(b.dir, "log"))
	return err
}

// settled reports whether the service is published, and all its instances are up if they
// are checked.
func (b *balancer) settled(s status.Service) bool {
	for _, d := range s.Descriptors {
		if d.Current && d.Confirmed < len(d.Slots) {
			return false
		}
	}
	for _, i := range s.Instances {
		if i.Check != nil && i.Check.Operating != string(health.Up) {
			return false
		}
	}
	return len(s.Descriptors) > 0 && len(s.Instances) == instances
}
