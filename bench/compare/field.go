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
	"sync/atomic"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

const (
	relays    = 37
	instances = 30
	perTor    = 5
	// fitting is how many backends OnionBalance's descriptor has room for: it publishes
	// two points of each.
	fitting = descriptor.MaxIntroductionPoints / 2

	crowd   = 6 // tors of new visitors
	keepers = 4 // of visitors who keep their descriptors

	// votingInterval is what OnionBalance takes for granted on a test network.
	votingInterval = 20 * time.Second
)

// The names of the tors of the programs, and of the one that reads from HSDirs.
const (
	oursTor   = "balancer"
	theirsTor = "onionbalance"
	watchTor  = "watch"
)

func keeperTor(i int) string { return fmt.Sprintf("keeper%d", i+1) }

// side is one program with one public address, and what became of it.
type side struct {
	Name      string    `json:"program"`
	Backends  int       `json:"backends"` // in its configuration, the first ones
	Published published `json:"published"`
	Before    count     `json:"before"`           // new visitors, before the kill
	Killed    *killed   `json:"killed,omitempty"` // nil if it did not answer before

	key *keystore.Fresh
}

func (s *side) address() descriptor.Address { return s.key.Address() }

// field is the network with everything that runs on it.
type field struct {
	*lab.Lab
	sides   []*side // balancer first
	running []*lab.Process
	reader  *lab.Reader
	number  atomic.Int64 // of visits by keepers
}

// startField starts the network, the instances and both programs.
func startField(ctx context.Context, dir string) (f *field, err error) {
	f = &field{sides: []*side{
		{Name: "balancer", Backends: instances},
		{Name: "OnionBalance", Backends: instances},
		{Name: "OnionBalance", Backends: fitting},
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
			f = nil
		}
	}()
	var masters []string
	for _, s := range f.sides {
		if s.key, err = keystore.New(rand.Reader); err != nil {
			return f, err
		}
		masters = append(masters, s.address().String())
	}
	tors := []string{oursTor, theirsTor, watchTor}
	for i := range keepers {
		tors = append(tors, keeperTor(i))
	}
	f.Lab, err = lab.Start(ctx, lab.Config{
		Dir: dir, Network: testnet.Config{
			Relays: relays, VotingInterval: votingInterval,
			// Each visit has circuits of its own, which tor would keep for ten minutes.
			ClientOptions: []string{"MaxCircuitDirtiness 10"},
		},
		Managers: tors, Masters: masters, Instances: instances, PerTor: perTor, Crowd: crowd,
		Timeout: 5 * time.Minute, Tell: func(what string) { harness.Progress("%s", what) },
	})
	if err != nil {
		return f, err
	}
	if f.reader, err = f.NewReader(ctx, watchTor); err != nil {
		return f, err
	}
	return f, errors.Join(f.startOurs(ctx), f.startTheirs())
}

// startOurs runs balancer as it comes, without any option.
func (f *field) startOurs(ctx context.Context) error {
	program, err := harness.Build(ctx, f.Dir)
	if err != nil {
		return err
	}
	dir := filepath.Join(f.Dir, "run-balancer")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := f.sides[0].key.WriteTor(filepath.Join(dir, "front")); err != nil {
		return err
	}
	config := filepath.Join(dir, "balancer.toml")
	text := f.ServiceConfig("state", fmt.Sprintf("control = %q", f.Net.ControlTarget(oursTor)), "front", "")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	return f.run(exec.Command(program, "run", "--config", config), dir)
}

// startTheirs runs one OnionBalance with two services.
func (f *field) startTheirs() error {
	dir := filepath.Join(f.Dir, "run-onionbalance")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("services:\n")
	for i, s := range f.sides[1:] {
		name := fmt.Sprintf("key%d.pem", i+1)
		if err := s.key.WritePEM(filepath.Join(dir, name)); err != nil {
			return err
		}
		fmt.Fprintf(&text, "- key: %s\n  instances:\n", name)
		for _, instance := range f.Instances[:s.Backends] {
			fmt.Fprintf(&text, "  - name: %s\n    address: %s\n", instance.Name(), instance.Address())
		}
	}
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte(text.String()), 0o600); err != nil {
		return err
	}
	cmd, err := harness.OnionBalance(f.Net.Client(theirsTor).ControlAddress(), config)
	if err != nil {
		return err
	}
	return f.run(cmd, dir)
}

func (f *field) run(cmd *exec.Cmd, dir string) error {
	p, err := lab.Run(cmd, filepath.Join(dir, "log"))
	if err == nil {
		f.running = append(f.running, p)
	}
	return err
}

// published waits until balancer's descriptor is at all HSDirs, and until an address of
// OnionBalance answers.
func (f *field) published(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not both programs have published within three minutes"))
	defer cancel()
	harness.Progress("waiting for both programs to publish")
	if _, err := lab.Await(ctx, filepath.Join(f.Dir, "run-balancer", "state", status.SocketName), lab.Confirmed); err != nil {
		return err
	}
	_, err := f.FirstVisit(ctx, f.sides[len(f.sides)-1].address().String())
	return err
}

// calm waits until the network changes nothing by itself for so long, which it does every
// four minutes, and until the programs have followed.
func (f *field) calm(ctx context.Context, long time.Duration) error {
	const settled = 60 * time.Second // the longest that OnionBalance takes to follow
	between := 12 * votingInterval
	for {
		c, err := f.Net.Consensus(ctx)
		if err != nil {
			return err
		}
		left := min(time.Until(c.NextPeriod()), time.Until(c.NextSharedRandom()))
		if left > long && left < between-settled {
			return nil
		}
		harness.Progress("waiting until the network changes nothing for a while")
		if !backoff.Sleep(ctx, time.Second) {
			return context.Cause(ctx)
		}
	}
}

// stop ends everything.
func (f *field) stop() (err error) {
	for _, p := range f.running {
		_ = p.Stop() // how it leaves does not matter here
	}
	if f.reader != nil {
		f.reader.Close()
	}
	if f.Lab != nil {
		err = f.Lab.Stop()
	}
	return err
}
