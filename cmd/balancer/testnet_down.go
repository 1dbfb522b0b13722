package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
)

func newTestnetDownCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a network that is up",
		Long: `Ends the network that "balancer testnet up" has started in DIRECTORY, and waits
until all of its processes are gone. If none is up there, nothing is done.`,
		Args: misuse(cobra.NoArgs),
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
		Long: `Says whether a network is up in DIRECTORY, what there is to use, and when the
network's time period and shared random value change next. The exit status is 0 if
it is up, and 1 otherwise.`,
		Args: misuse(cobra.NoArgs),
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
			if err := printLab(cmd, state, asJSON); err != nil {
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
