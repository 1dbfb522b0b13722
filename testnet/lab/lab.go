// Package lab is a private Tor network with what it takes to try a balancer on it:
// instances of public addresses, ordinary services, a balancer in a process of its
// own, and visitors who are counted. Commands, benchmarks and tests share it.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/testnet"
)

// The names of the tors of a lab that are no relays and no services.
const (
	Client  = "client"  // of all visitors
	Manager = "manager" // for a balancer, unless Config.Managers says otherwise
)

// Config describes a lab. Its zero value is a network without services.
type Config struct {
	Dir       string         // a temporary one if empty, which Stop removes
	Network   testnet.Config // Dir, Clients and Progress are set by Start
	Managers  []string       // names of tors for balancers
	Masters   []string       // public addresses that the instances answer under
	Instances int            // called web1, web2 and so on
	Crowd     int            // tors of visitors who each fetch the descriptor anew; see NewVisit
	PerTor    int            // how many instances run in one tor, called tor1 and so on; 0 and 1: each has its own
	Services  int            // ordinary ones, called plain1, plain2 and so on
	Timeout   time.Duration  // for Start; 0 stands for 5 minutes
	Tell      func(string)   // hears of the progress; may be nil
}

// Lab is a network that is up. Its methods can be called from any goroutine.
type Lab struct {
	Net       *testnet.Network
	Dir       string // absolute
	Instances []*testnet.Service
	Services  []*testnet.Service

	ownDir   bool
	visitors atomic.Int64
	crowd    chan *testnet.Client // those that no visitor uses at the moment
}

// Start makes a lab and waits until its services are published. A network that is
// left in config.Dir is removed.
func Start(ctx context.Context, config Config) (_ *Lab, err error) {
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Minute
	}
	if config.Tell == nil {
		config.Tell = func(string) {}
	}
	if config.Managers == nil {
		config.Managers = []string{Manager}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, config.Timeout,
		fmt.Errorf("the test network was not up after %v: is the machine very busy?", config.Timeout))
	defer cancel()
	l := &Lab{ownDir: config.Dir == ""}
	if l.ownDir {
		// A unix socket's path must be short, and a test's own directory is not.
		config.Dir, err = os.MkdirTemp("", "lab-")
	}
	if err == nil {
		l.Dir, err = filepath.Abs(config.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("making the directory of a test network: %w", err)
	}
	network := config.Network
	network.Dir = filepath.Join(l.Dir, "net")
	network.Clients = append([]string{Client}, config.Managers...)
	for i := range config.Crowd {
		network.Clients = append(network.Clients, crowdName(i))
	}
	network.Progress = func(p testnet.Progress) { config.Tell(p.String()) }
	if err := os.RemoveAll(network.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("removing an earlier test network: %w", err), l.Stop())
	}
	if l.Net, err = testnet.Start(ctx, network); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	l.crowd = make(chan *testnet.Client, config.Crowd)
	for i := range config.Crowd {
		l.crowd <- l.Net.Client(crowdName(i))
	}
	if err := l.startServices(ctx, config); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func crowdName(i int) string { return fmt.Sprintf("crowd%d", i+1) }

// startServices starts instances and ordinary services, and waits until HSDirs have
// their descriptors.
func (l *Lab) startServices(ctx context.Context, config Config) error {
	l.Instances = make([]*testnet.Service, config.Instances)
	l.Services = make([]*testnet.Service, config.Services)
	config.Tell(fmt.Sprintf("starting %d instances and %d ordinary services", config.Instances, config.Services))
	group, ctx := errgroup.WithContext(ctx)
	start := func(tor string, into []*testnet.Service, configs ...testnet.ServiceConfig) {
		group.Go(func() error {
			services, err := l.startTor(ctx, tor, configs)
			copy(into, services)
			return err
		})
	}
	var instances []testnet.ServiceConfig
	for i := range l.Instances {
		instances = append(instances, testnet.ServiceConfig{Name: fmt.Sprintf("web%d", i+1), Masters: config.Masters})
	}
	each := max(1, config.PerTor)
	for first := 0; first < len(instances); first += each {
		some := instances[first:min(first+each, len(instances))]
		tor := some[0].Name
		if each > 1 {
			tor = fmt.Sprintf("tor%d", first/each+1)
		}
		start(tor, l.Instances[first:], some...)
	}
	for i := range l.Services {
		c := testnet.ServiceConfig{Name: fmt.Sprintf("plain%d", i+1)}
		start(c.Name, l.Services[i:], c)
	}
	return group.Wait()
}

// startTor starts one tor with several services, and waits until HSDirs have their
// descriptors.
func (l *Lab) startTor(ctx context.Context, tor string, configs []testnet.ServiceConfig) ([]*testnet.Service, error) {
	services, err := l.Net.Services(ctx, tor, configs...)
	for _, s := range services {
		if err == nil {
			err = s.Published(ctx)
		}
	}
	return services, err
}

// StartReplicas adds instances that depend on the network, or take long to prepare: one
// tor with each group of them, called replica1 and so on. It must not be called while
// anybody uses the instances.
func (l *Lab) StartReplicas(ctx context.Context, groups ...[]testnet.ServiceConfig) error {
	started := make([][]*testnet.Service, len(groups))
	group, ctx := errgroup.WithContext(ctx)
	for i, configs := range groups {
		group.Go(func() (err error) {
			started[i], err = l.startTor(ctx, fmt.Sprintf("replica%d", i+1), configs)
			return err
		})
	}
	err := group.Wait()
	l.Instances = append(l.Instances, slices.Concat(started...)...)
	return err
}

// Stop ends everything but the balancers, and waits. It can be called again.
func (l *Lab) Stop() (err error) {
	if l.Net != nil {
		err = l.Net.Stop()
	}
	if l.ownDir {
		err = errors.Join(err, os.RemoveAll(l.Dir))
	}
	return err
}

// Names are those of the instances.
func (l *Lab) Names() (names []string) {
	for _, s := range l.Instances {
		names = append(names, s.Name())
	}
	return names
}

// List writes an entry for each instance, a format for its name and its address.
func (l *Lab) List(entry string) string {
	var b strings.Builder
	for _, s := range l.Instances {
		fmt.Fprintf(&b, entry, s.Name(), s.Address())
	}
	return b.String()
}

// BalancerConfig is a configuration of one service with all instances, by the tor
// Manager. options are further lines of the service.
func (l *Lab) BalancerConfig(key, options string) string {
	return l.ServiceConfig("state", fmt.Sprintf("control = %q", l.Net.ControlTarget(Manager)), key, options)
}

// ServiceConfig is BalancerConfig with another state_dir, and other lines in its
// [tor] table.
func (l *Lab) ServiceConfig(state, tor, key, options string) string {
	if options != "" {
		options += "\n"
	}
	return fmt.Sprintf("state_dir = %q\n\n[tor]\n%s\n\n[[service]]\nkey = %q\n%s", state, tor, key, options) +
		l.List("\n  [[service.instance]]\n  name = %q\n  address = %q\n")
}

// JoiningTorrc are the lines that have a tor join the network.
func (l *Lab) JoiningTorrc() (string, error) {
	text, err := os.ReadFile(filepath.Join(l.Net.Dir(), Client, "torrc"))
	if err != nil {
		return "", fmt.Errorf("reading how a tor joins the network: %w", err)
	}
	lines := "TestingTorNetwork 1\n"
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "DirAuthority") {
			lines += line
		}
	}
	return lines, nil
}
