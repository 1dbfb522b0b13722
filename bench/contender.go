package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/sim"
)

// contender is one of the two programs.
type contender struct {
	name   string
	dir    string
	fronts []string // the public address of each start, with .onion
	// prepare writes what the program needs for a start to dir, and returns the
	// command.
	prepare func(dir string, turn int) ([]string, error)

	run *lab.Process
}

// newContenders builds balancer and returns it and OnionBalance, in this order.
func newContenders(ctx context.Context, a *arena) ([]*contender, error) {
	program, err := harness.Build(ctx, a.Dir)
	if err != nil {
		return nil, err
	}
	both := []*contender{
		{name: ours, prepare: func(dir string, turn int) ([]string, error) { return a.prepareOurs(program, dir, turn) }},
		{name: theirs, prepare: a.prepareTheirs},
	}
	for _, c := range both {
		c.dir = filepath.Join(a.Dir, "run-"+c.name)
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
	config := a.ServiceConfig("state", fmt.Sprintf("control = %q", a.Net.ControlTarget(ours)), "front", "")
	path := filepath.Join(dir, "balancer.toml")
	return []string{program, "run", "--config", path}, os.WriteFile(path, []byte(config), 0o600)
}

func (a *arena) prepareTheirs(dir string, turn int) ([]string, error) {
	if err := a.keys[theirs][turn].WritePEM(filepath.Join(dir, "front.key")); err != nil {
		return nil, err
	}
	config := "services:\n- key: front.key\n  instances:\n" + a.List("  - name: %s\n    address: %s\n")
	path := filepath.Join(dir, "config.yaml")
	cmd, err := harness.OnionBalance(a.Net.Client(theirs).ControlAddress(), path)
	if err != nil {
		return nil, err
	}
	return cmd.Args, os.WriteFile(path, []byte(config), 0o600)
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
	c.run, err = lab.Run(exec.Command(command[0], command[1:]...), filepath.Join(dir, "log"))
	return err
}

// stop ends the program, if it runs, as an operator would. How it leaves does
// not matter here.
func (c *contender) stop() {
	if c.run != nil {
		_ = c.run.Stop()
		c.run = nil
	}
}

// pythonProgram is Debian's, for which the package onionbalance is made.
const pythonProgram = "/usr/bin/python3"

//go:embed onionbalance.py
var onionBalanceScript string

// onionBalance is a process in which OnionBalance's classes are timed.
type onionBalance struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Reader
}

func startOnionBalance(ctx context.Context, f *fixture) (*onionBalance, error) {
	o := &onionBalance{cmd: singleCore(ctx, pythonProgram, "-c", onionBalanceScript)}
	o.cmd.Stderr = os.Stderr
	var err error
	if o.stdin, err = o.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.answers = bufio.NewReader(stdout)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting OnionBalance's classes (Debian package onionbalance): %w", err)
	}
	var ready struct {
		Points int `json:"points"`
	}
	if err := o.ask(f, &ready); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *onionBalance) ask(request, answer any) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := o.stdin.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("asking OnionBalance's classes: %w", err)
	}
	line, err := o.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("asking OnionBalance's classes: %w", err)
	}
	return json.Unmarshal(line, answer)
}

// run returns the processor time in seconds that an operation takes.
func (o *onionBalance) run(operation string, each time.Duration) (float64, error) {
	request := map[string]any{"operation": operation, "seconds": each.Seconds()}
	var answer struct {
		Seconds float64 `json:"seconds"`
	}
	err := o.ask(request, &answer)
	return answer.Seconds, err
}

func (o *onionBalance) close() error {
	o.stdin.Close()
	return o.cmd.Wait()
}

// relays is how many HSDirs the public network has, rounded up.
const relays = 8000

// fixture is what OnionBalance's classes are timed with. Our benchmarks make
// the like of it themselves.
type fixture struct {
	Address    string `json:"address"`    // of an instance, with .onion
	Descriptor []byte `json:"descriptor"` // of the instance, with as many introduction points as there may be
	Seed       []byte `json:"seed"`       // of a service's identity key
	RunAge     int    `json:"run_age"`    // of the shared-random run, in seconds
	Consensus  string `json:"consensus"`  // a file
	Microdescs string `json:"microdescs"` // a file
}

// makeFixture writes files to dir.
func makeFixture(dir string) (*fixture, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	f := &fixture{
		Seed: seed, RunAge: int(36 * time.Hour / time.Second),
		Consensus: filepath.Join(dir, "consensus"), Microdescs: filepath.Join(dir, "microdescs"),
	}
	var err error
	if f.Address, f.Descriptor, err = makeInstance(); err != nil {
		return nil, fmt.Errorf("making an instance's descriptor: %w", err)
	}
	network := sim.New(sim.Config{Relays: relays})
	defer network.Close()
	consensus := network.Consensus()
	if err := os.WriteFile(f.Consensus, consensus.Text(), 0o600); err != nil {
		return nil, err
	}
	return f, os.WriteFile(f.Microdescs, consensus.Microdescs(), 0o600)
}

// makeInstance makes an instance's address and a descriptor of it.
func makeInstance() (address string, raw []byte, err error) {
	now := time.Now()
	identity, err := descriptor.IdentityKeyFromSeed(points.RandomBytes(ed25519.SeedSize))
	if err != nil {
		return "", nil, err
	}
	keys, err := identity.Address().Keys(descriptor.PeriodAt(now, 24*time.Hour, 12*time.Hour))
	if err != nil {
		return "", nil, err
	}
	blinded, err := identity.Blind(keys.Period)
	if err != nil {
		return "", nil, err
	}
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(public), keys.Blinded,
		descriptor.SigningCertExpiry(now), func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		return "", nil, err
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		return "", nil, err
	}
	contents, err := points.Contents(now)
	if err != nil {
		return "", nil, err
	}
	raw, err = encoder.Encode(contents, 1, rand.Reader)
	return identity.Address().String(), raw, err
}
