package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/testnet"
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
public address. Nothing of it touches the real Tor network, and it needs no
privileges; the tor and tor-gencert of the Debian package tor have to be there.

Time runs fast: with a voting interval of 10 seconds a time period (a day on the
real network) lasts 4 minutes, and so does a shared random value.`,
		Example: `  balancer testnet up --detach
  balancer run --config .testnet/balancer.toml
  balancer testnet status
  balancer testnet down`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTestnetUpCommand(), newTestnetDownCommand(), newTestnetStatusCommand())
	return cmd
}

func addDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", defaultLabDir, "the network's `DIRECTORY`: keys, logs and state of every tor")
	_ = cmd.MarkFlagDirname("dir")
}

func newTestnetUpCommand() *cobra.Command {
	var dir string
	var detach, asJSON bool
	config := labConfig{timeout: 3 * time.Minute}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the network, and keep it up until Ctrl-C",
		Long: `Starts the network and shows how far it is, then what there is to use: the SOCKS
port of the client, the control port of the manager, the addresses of the
instances, and a configuration for "balancer run". The network is up until Ctrl-C,
SIGTERM or "balancer testnet down"; with --detach it is so in the background, and
the command returns once everything works.

Each tor has a directory of its own below DIRECTORY/net, with its torrc and its
output.log, which stay when the network is down, until the next one. The key of the
public address, DIRECTORY/front, is kept for the next one too.

To see what happens when an instance dies, end its tor: "kill -9 PID".`,
		Example: `  balancer testnet up --instances 5 --voting-interval 20s
  balancer testnet up --detach --dir /tmp/net --services 1
  curl --proxy socks5h://user1:x@SOCKS http://ADDRESS/`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.instances < 0 || config.services < 0 || config.instances+config.services > 50 {
				return usageError{errors.New("--instances and --services are numbers from 0 to 50")}
			}
			if err := config.network.Validate(); err != nil {
				return usageError{err}
			}
			if err := owner.Check(dir); err != nil {
				return err
			}
			if detach {
				return detachLab(cmd, dir, asJSON)
			}
			return upLab(cmd, dir, config, asJSON)
		},
	}
	addDirFlag(cmd, &dir)
	flags := cmd.Flags()
	flags.IntVar(&config.network.Authorities, "authorities", testnet.DefaultAuthorities, "`NUMBER` of directory authorities, 3 to 9")
	flags.IntVar(&config.network.Relays, "relays", testnet.DefaultRelays, "`NUMBER` of relays besides them, 3 to 100; each instance chooses three as introduction points")
	flags.IntVar(&config.instances, "instances", 3, "`NUMBER` of instances of the public address")
	flags.IntVar(&config.services, "services", 0, "`NUMBER` of ordinary onion services")
	flags.DurationVar(&config.network.VotingInterval, "voting-interval", testnet.DefaultVotingInterval, "`TIME` from one consensus to the next, 10s or more")
	flags.StringVar(&config.network.TorBinary, "tor", "tor", "the tor `PROGRAM` to run")
	flags.StringVar(&config.network.LogLevel, "tor-log", "notice", "what the tors log, as in torrc: \"[rend]info notice\" tells more")
	flags.BoolVar(&detach, "detach", false, "leave the network up in the background")
	flags.BoolVar(&asJSON, "json", false, "print what there is to use as JSON")
	return cmd
}

// upLab starts a network and holds it until the command's context ends.
func upLab(cmd *cobra.Command, dir string, config labConfig, asJSON bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the test network's directory: %w", err)
	}
	lock, err := lockLab(dir)
	if err != nil {
		return fmt.Errorf("%w; \"balancer testnet down\" ends it", err)
	}
	defer lock.Close()
	state := &labState{
		State: "starting", PID: os.Getpid(), Started: time.Now().UTC(), Dir: dir,
		Authorities: config.network.Authorities, Relays: config.network.Relays,
		VotingInterval: config.network.VotingInterval.Seconds(),
	}
	line := newProgressLine(cmd.ErrOrStderr(), false)
	l, err := startLab(cmd.Context(), dir, config, func(progress string) {
		line.tell(progress)
		state.Progress = progress
		_ = state.write() // for --detach to show; the next one may be luckier
	})
	line.clear()
	if err != nil {
		return err
	}
	defer os.Remove(statePath(dir))
	defer l.net.Stop()
	state.describe(l)
	if err := state.write(); err != nil {
		return err
	}
	if err := printLab(cmd, state, asJSON); err != nil {
		return err
	}
	<-cmd.Context().Done()
	line.tell("ending the network")
	err = l.net.Stop()
	line.say("the network is down")
	return err
}
