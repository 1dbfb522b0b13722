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
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/bench/harness"
	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// program is one of the two that are compared.
type program int

const (
	ours program = iota
	theirs
)

var programs = [...]program{ours, theirs}

func (p program) String() string { return [...]string{"balancer", "OnionBalance"}[p] }

const (
	relays        = 20
	setCount      = 5 // the turns of each figure, measured at the same time
	instancesEach = 3

	// votingInterval is what OnionBalance takes for granted on a test network.
	votingInterval = 20 * time.Second

	oursGroup  = 5100 // that balancer and its tor run under
	firstGroup = 5101 // of the tors of the network
)

// The names of the tors that are no relays and no instances, besides lab.Client, which
// keeps its descriptors.
const (
	managerTor = "onionbalance" // OnionBalance's
	watchTor   = "watch"        // reads descriptors from HSDirs
	freshTors  = 4              // drop their descriptors, fresh1 and so on
)

// set is a public address of each program and the instances of both.
type set struct {
	number    int // from 1
	keys      [len(programs)]*keystore.Fresh
	addresses [len(programs)]descriptor.Address
	instances []*testnet.Service
	spare     string // an address in ob_config that nobody publishes
}

// masters are the lines of a sound ob_config.
func (s *set) masters() []string {
	return []string{s.addresses[ours].String(), s.addresses[theirs].String(), s.spare}
}

// field is the network with everything that runs on it.
type field struct {
	*lab.Lab
	sets   []*set
	filter *filter

	program string // balancer's
	dirs    [len(programs)]string
	running [len(programs)]*lab.Process

	next     int // instance of each set to fail
	watch    *watcher
	visitors *visitors
}

// startField starts the network, the instances and both programs.
func startField(ctx context.Context, o options, dir string) (f *field, err error) {
	f = new(field)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
			f = nil
		}
	}()
	managers := []string{managerTor, watchTor}
	for i := range freshTors {
		managers = append(managers, freshTor(i))
	}
	f.Lab, err = lab.Start(ctx, lab.Config{
		Dir: dir, Network: testnet.Config{
			Relays: relays, VotingInterval: votingInterval, FirstGroup: firstGroup,
			// Each fetch and each visit has a circuit of its own, which tor would keep
			// for ten minutes. Thousands of them take all its time.
			ClientOptions: []string{"MaxCircuitDirtiness 10"},
		},
		Managers: managers, Timeout: 5 * time.Minute, Tell: func(what string) { harness.Progress("%s", what) },
	})
	if err != nil {
		return f, err
	}
	if err := f.startInstances(ctx); err != nil {
		return f, err
	}
	if f.filter, err = newFilter(ctx, f.groups()); err != nil {
		return f, err
	}
	if f.program, err = harness.Build(ctx, f.Dir); err != nil {
		return f, err
	}
	if err := f.prepareOurs(o); err != nil {
		return f, err
	}
	if err := f.prepareTheirs(); err != nil {
		return f, err
	}
	if f.watch, err = startWatcher(ctx, f); err != nil {
		return f, err
	}
	f.visitors = newVisitors(f)
	return f, errors.Join(f.start(ours), f.start(theirs))
}

// startInstances starts all instances, a few at a time, and waits until they are
// published.
func (f *field) startInstances(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(5)
	for i := range setCount {
		s := &set{number: i + 1, instances: make([]*testnet.Service, instancesEach)}
		f.sets = append(f.sets, s)
		for _, p := range programs {
			key, err := keystore.New(rand.Reader)
			if err != nil {
				return err
			}
			s.keys[p], s.addresses[p] = key, key.Address()
		}
		spare, err := keystore.New(rand.Reader)
		if err != nil {
			return err
		}
		s.spare = spare.Address().String()
		for j := range s.instances {
			group.Go(func() (err error) {
				name := fmt.Sprintf("web%d-%d", j+1, s.number)
				harness.Progress("starting instance %s", name)
				s.instances[j], err = f.Net.Service(ctx, testnet.ServiceConfig{Name: name, Masters: s.masters()})
				if err != nil {
					return err
				}
				return s.instances[j].Published(ctx)
			})
		}
	}
	return group.Wait()
}

// groups are those of everything that may be cut off.
func (f *field) groups() []uint32 {
	groups := []uint32{oursGroup, f.Net.Client(managerTor).Group()}
	for _, i := range f.instances() {
		groups = append(groups, i.Group())
	}
	return groups
}

// checks is how balancer checks instances here.
const checks = `
[check]
kind = "http"
path = "/"
interval = "2s"
fast_interval = "500ms"
timeout = "2s"
fall = 3
rise = 2
public_interval = "5s"
rate = 6
`

// prepareOurs writes balancer's configuration, for a tor of its own.
func (f *field) prepareOurs(o options) error {
	dir, err := f.makeDir(ours)
	if err != nil {
		return err
	}
	torrc, err := f.JoiningTorrc()
	if err != nil {
		return err
	}
	// As every other tor of the network.
	torrc += "LearnCircuitBuildTimeout 0\nCircuitBuildTimeout 3\n"
	var text strings.Builder
	text.WriteString("state_dir = \"state\"\n\n[log]\nlevel = \"debug\"\n\n[tor]\ntorrc = \"joining.torrc\"\n")
	if o.checks {
		text.WriteString(checks)
	}
	for _, s := range f.sets {
		name := fmt.Sprintf("key%d", s.number)
		if err := s.keys[ours].WriteTor(filepath.Join(dir, name)); err != nil {
			return err
		}
		fmt.Fprintf(&text, "\n[[service]]\nkey = %q\n", name)
		for _, i := range s.instances {
			fmt.Fprintf(&text, "  [[service.instance]]\n  name = %q\n  address = %q\n", i.Name(), i.Address())
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "joining.torrc"), []byte(torrc), 0o600),
		os.WriteFile(filepath.Join(dir, "balancer.toml"), []byte(text.String()), 0o600))
}

// prepareTheirs writes OnionBalance's configuration.
func (f *field) prepareTheirs() error {
	dir, err := f.makeDir(theirs)
	if err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("services:\n")
	for _, s := range f.sets {
		name := fmt.Sprintf("key%d.pem", s.number)
		if err := s.keys[theirs].WritePEM(filepath.Join(dir, name)); err != nil {
			return err
		}
		fmt.Fprintf(&text, "- key: %s\n  instances:\n", name)
		for _, i := range s.instances {
			fmt.Fprintf(&text, "  - name: %s\n    address: %s\n", i.Name(), i.Address())
		}
	}
	return os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text.String()), 0o600)
}

func (f *field) makeDir(p program) (string, error) {
	f.dirs[p] = filepath.Join(f.Dir, "run-"+strings.ToLower(p.String()))
	// Of an earlier run, whose keys are not these.
	return f.dirs[p], errors.Join(os.RemoveAll(f.dirs[p]), os.MkdirAll(f.dirs[p], 0o700))
}

// start starts one of the programs.
func (f *field) start(p program) (err error) {
	dir := f.dirs[p]
	var cmd *exec.Cmd
	if p == ours {
		cmd = exec.Command(f.program, "run", "--config", filepath.Join(dir, "balancer.toml"))
		// Its tor runs under the same group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(os.Getuid()), Gid: oursGroup}}
	} else {
		if cmd, err = harness.OnionBalance(f.Net.Client(managerTor).ControlAddress(), filepath.Join(dir, "config.yaml")); err != nil {
			return err
		}
	}
	f.running[p], err = lab.Run(cmd, filepath.Join(dir, "log"))
	return err
}

// socket is balancer's.
func (f *field) socket() string { return filepath.Join(f.dirs[ours], "state", status.SocketName) }

// stop ends everything.
func (f *field) stop() (err error) {
	if p := f.running[ours]; p != nil {
		err = p.Stop()
	}
	if p := f.running[theirs]; p != nil {
		_ = p.Stop() // how it leaves does not matter here
	}
	if f.watch != nil {
		f.watch.stop()
	}
	if f.filter != nil {
		err = errors.Join(err, f.filter.close())
	}
	if f.Lab != nil {
		err = errors.Join(err, f.Lab.Stop())
	}
	return err
}

func freshTor(i int) string { return fmt.Sprintf("fresh%d", i+1) }
