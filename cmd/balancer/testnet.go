package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// defaultLabDir is where "testnet" keeps a network unless told otherwise.
const defaultLabDir = ".testnet"

func newTestnetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "testnet",
		Short: "Run a private Tor network to try things on",
		Long: `Run a private Tor network on this machine: real tor processes on loopback
addresses, with directory authorities, relays, a client, a tor for the balancer to
manage services through, and onion services that are set up as instances of one
public address. It never touches the real Tor network, and needs no privileges, but
the programs tor and tor-gencert of the Debian package tor.

Time runs fast: with a voting interval of 10 seconds a time period (a day on the
real network) lasts 4 minutes, and so does a shared random value.`,
		Example: `  balancer testnet up --detach
  balancer run --config .testnet/balancer.toml
  balancer testnet status
  balancer testnet down`,
	}
	addCommands(cmd, newTestnetUpCommand(), newTestnetDownCommand(), newTestnetStatusCommand())
	return cmd
}

func addDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", defaultLabDir, "the network's `DIRECTORY`: keys, logs and state of every tor")
	_ = cmd.MarkFlagDirname("dir")
}

func newTestnetUpCommand() *cobra.Command {
	var dir string
	var detach, asJSON bool
	config := lab.Config{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the network, and keep it up until Ctrl-C",
		Long: `Starts the network and shows its progress, then its access points: the SOCKS
port of the client, the control port of the manager, the addresses of the
instances, and a configuration for "balancer run". The network is up until Ctrl-C,
SIGTERM or "balancer testnet down"; with --detach it runs in the background, and
the command returns once everything works.

Each tor has a directory of its own below DIRECTORY/net, with its torrc and its
output.log, which are kept until the next start. The key of the public address,
DIRECTORY/front, is reused by the next network.

To see what happens when an instance dies, end its tor: "kill -9 PID".`,
		Example: `  balancer testnet up --instances 5 --voting-interval 20s
  balancer testnet up --detach --dir /tmp/net --services 1
  curl --proxy socks5h://user1:x@SOCKS http://ADDRESS/`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.Instances < 0 || config.Services < 0 || config.Instances+config.Services > 50 {
				return usageError{errors.New("--instances and --services are numbers from 0 to 50")}
			}
			if err := config.Network.Validate(); err != nil {
				return usageError{err}
			}
			if err := owner.Check(dir); err != nil {
				return err
			}
			dir, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("making the test network's directory: %w", err)
			}
			if detach {
				return detachLab(cmd, dir, asJSON)
			}
			return upLab(cmd, dir, config, asJSON)
		},
	}
	addDirFlag(cmd, &dir)
	flags := cmd.Flags()
	flags.IntVar(&config.Network.Authorities, "authorities", testnet.DefaultAuthorities, "`NUMBER` of directory authorities, 3 to 9")
	flags.IntVar(&config.Network.Relays, "relays", testnet.DefaultRelays, "`NUMBER` of relays besides them, 3 to 100; each instance chooses three as introduction points")
	flags.IntVar(&config.Instances, "instances", 3, "`NUMBER` of instances of the public address")
	flags.IntVar(&config.Services, "services", 0, "`NUMBER` of ordinary onion services")
	flags.DurationVar(&config.Network.VotingInterval, "voting-interval", testnet.DefaultVotingInterval, "`TIME` from one consensus to the next, 10s or more")
	flags.StringVar(&config.Network.TorBinary, "tor", "tor", "the tor `PROGRAM` to run")
	flags.StringVar(&config.Network.LogLevel, "tor-log", "notice", "what the tors log, as in torrc: \"[rend]info notice\" tells more")
	flags.BoolVar(&detach, "detach", false, "leave the network up in the background")
	flags.BoolVar(&asJSON, "json", false, "print what there is to use as JSON")
	return cmd
}

// upLab starts a network and holds it until the command's context ends.
func upLab(cmd *cobra.Command, dir string, config lab.Config, asJSON bool) error {
	lock, err := lockLab(dir)
	if err != nil {
		return fmt.Errorf("%w; \"balancer testnet down\" ends it", err)
	}
	defer lock.Close()
	state := &labState{
		State: "starting", PID: os.Getpid(), Started: time.Now().UTC(), Dir: dir,
		Authorities: config.Network.Authorities, Relays: config.Network.Relays,
		VotingInterval: config.Network.VotingInterval.Seconds(),
	}
	line := newProgressLine(cmd.ErrOrStderr())
	l, err := startLab(cmd.Context(), dir, config, "", "", func(progress string) {
		line.tell(progress)
		state.Progress = progress
		_ = state.write() // for --detach to show; the next one may be luckier
	})
	line.clear()
	if err != nil {
		return err
	}
	defer os.Remove(statePath(dir))
	defer l.Stop()
	state.describe(l)
	if err := state.write(); err != nil {
		return err
	}
	if err := state.show(cmd, asJSON); err != nil {
		return err
	}
	<-cmd.Context().Done()
	line.tell("ending the network")
	err = l.Stop()
	line.say("the network is down")
	return err
}

// detachLab runs the same command again in the background, without --detach,
// and waits until it has a network up.
func detachLab(cmd *cobra.Command, dir string, asJSON bool) error {
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
	line := newProgressLine(cmd.ErrOrStderr())
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
			return state.show(cmd, asJSON)
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

func newTestnetDownCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a network that is up",
		Long: `Ends the network that "balancer testnet up" has started in DIRECTORY, and waits
until all of its processes are gone. It does nothing if no network is up there.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := owner.Check(dir); err != nil {
				return err
			}
			return downLab(cmd.Context(), dir)
		},
	}
	addDirFlag(cmd, &dir)
	return cmd
}

// downLab asks the process that holds the network to leave, and kills it if it
// does not; its tors leave with it.
func downLab(ctx context.Context, dir string) error {
	state, err := readLabState(dir)
	if err != nil || state.State == "down" {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(state.PID, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending the test network, process %d: %w", state.PID, err)
		}
		for began := time.Now(); time.Since(began) < 10*time.Second; {
			now, err := readLabState(dir)
			if err != nil || now.State == "down" {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("ending the test network: process %d does not end", state.PID)
}

func newTestnetStatusCommand() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether a network is up, and what there is to use",
		Long: `Says whether a network is up in DIRECTORY, its access points, and when the network's time period and shared random value change next. The exit status is 0 if
it is up, and 1 otherwise.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := owner.Check(dir); err != nil {
				return err
			}
			state, err := readLabState(dir)
			if err != nil {
				return err
			}
			if state.State == "up" {
				state.ask(cmd.Context())
			}
			if err := state.show(cmd, asJSON); err != nil {
				return err
			}
			if state.State != "up" {
				return fmt.Errorf("no test network is up in %s", dir)
			}
			return nil
		},
	}
	addDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}
