package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"onionbalancer/internal/filelock"
	"onionbalancer/internal/printable"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// labState is what "testnet up" writes down for "status" and "down", in
// testnet.json.
type labState struct {
	State    string    `json:"state"` // "starting" or "up"; "down" if the lock is free
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Dir      string    `json:"dir"`
	Progress string    `json:"progress,omitempty"` // while starting

	Authorities    int     `json:"authorities"`
	Relays         int     `json:"relays"`
	VotingInterval float64 `json:"voting_interval_seconds"`

	Directory string        `json:"directory,omitempty"` // an authority's, "host:port"
	Socks     string        `json:"socks,omitempty"`     // the client's, "host:port"
	Control   string        `json:"control,omitempty"`   // the manager's, "host:port"
	Address   string        `json:"address,omitempty"`   // the public one, for a balancer to serve
	Config    string        `json:"config,omitempty"`    // the balancer's
	Instances []labService  `json:"instances,omitempty"`
	Services  []labService  `json:"services,omitempty"`
	Consensus *labConsensus `json:"consensus,omitempty"` // as of now, by "status"
}

// labService is an onion service of the network.
type labService struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	PID     int    `json:"pid"` // of its tor
}

// labConsensus is the network's clock.
type labConsensus struct {
	ValidAfter       time.Time `json:"valid_after"`
	FreshUntil       time.Time `json:"fresh_until"`
	Relays           int       `json:"relays"`
	NextPeriod       time.Time `json:"next_period"`
	NextSharedRandom time.Time `json:"next_shared_random"`
}

func statePath(dir string) string { return filepath.Join(dir, "testnet.json") }

// errLocked says that a network is up in a directory.
var errLocked = errors.New("a test network is up there already")

// lockLab takes the lock that says a network is up in dir. The kernel releases
// it when its holder ends, however that happens.
func lockLab(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the test network's directory: %w", err)
	}
	if err := filelock.TryLock(lock); err != nil {
		lock.Close()
		if errors.Is(err, filelock.ErrLocked) {
			err = errLocked
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return lock, nil
}

// write replaces testnet.json.
func (s *labState) write() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(statePath(s.Dir), append(text, '\n'), 0o600)
}

// readLabState reads testnet.json, and sees whether it is still true.
func readLabState(dir string) (*labState, error) {
	s := &labState{State: "down", Dir: dir}
	text, err := os.ReadFile(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the test network's state: %w", err)
	}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("reading the test network's state: %s: %w", statePath(dir), err)
	}
	lock, err := lockLab(dir)
	if err == nil {
		lock.Close()
		return &labState{State: "down", Dir: dir}, nil
	}
	if !errors.Is(err, errLocked) {
		return nil, err
	}
	return s, nil
}

// ask adds the information that only the network itself has.
func (s *labState) ask(ctx context.Context) {
	if c, err := testnet.FetchConsensus(ctx, s.Directory); err == nil {
		s.Consensus = &labConsensus{
			ValidAfter: c.ValidAfter, FreshUntil: c.FreshUntil, Relays: c.Relays,
			NextPeriod: c.NextPeriod(), NextSharedRandom: c.NextSharedRandom(),
		}
	}
}

// describe fills in the addresses and ports of a running lab.
func (s *labState) describe(l *publicLab) {
	s.State, s.Progress = "up", ""
	s.Directory = l.Net.DirectoryAddress()
	s.Socks = l.Net.Client(lab.Client).SocksAddress()
	s.Control = l.Net.ControlTarget(lab.Manager)
	s.Address, s.Config = l.front, l.config
	for _, i := range l.Instances {
		s.Instances = append(s.Instances, labService{i.Name(), i.Address(), i.PID()})
	}
	for _, i := range l.Services {
		s.Services = append(s.Services, labService{i.Name(), i.Address(), i.PID()})
	}
}

func (s *labState) show(cmd *cobra.Command, asJSON bool) error {
	return show(cmd, asJSON, s, table(s.print))
}

func (s *labState) print(w io.Writer) {
	printable.Fields(s)
	fmt.Fprintf(w, "network\t%s", s.State)
	switch s.State {
	case "starting":
		fmt.Fprintf(w, ": %s\n", s.Progress)
		return
	case "down":
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, ", pid %d, %d authorities and %d relays, a consensus every %g s\n", s.PID, s.Authorities, s.Relays, s.VotingInterval)
	fmt.Fprintf(w, "directory\t%s\n", s.Dir)
	fmt.Fprintf(w, "client\tSOCKS port %s\n", s.Socks)
	fmt.Fprintf(w, "manager\tcontrol port %s\n", s.Control)
	if c := s.Consensus; c != nil {
		fmt.Fprintf(w, "consensus\tof %s, %d relays\n", clock(c.ValidAfter), c.Relays)
		fmt.Fprintf(w, "next\tperiod at %s, shared random value at %s\n", clock(c.NextPeriod), clock(c.NextSharedRandom))
	}
	fmt.Fprintf(w, "public\t%s\n", s.Address)
	for _, i := range s.Instances {
		fmt.Fprintf(w, "%s\t%s, pid %d\n", i.Name, i.Address, i.PID)
	}
	for _, i := range s.Services {
		fmt.Fprintf(w, "%s\t%s, pid %d, an ordinary service\n", i.Name, i.Address, i.PID)
	}
	fmt.Fprintf(w, "\nbalancer run --config %s\n", s.Config)
}
