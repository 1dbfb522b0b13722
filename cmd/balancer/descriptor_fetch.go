package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/owner"
)

func newDescriptorFetchCommand() *cobra.Command {
	var path, target, key string
	cmd := &cobra.Command{
		Use:   "fetch ADDRESS",
		Short: "Fetch the descriptor of an onion service from the HSDirs",
		Long: `Fetch the descriptor of an onion service from the HSDirs that are responsible
for it, verify it, and write it as it came to standard output. "balancer
descriptor show" prints what is in it.

The descriptor is that of the current period: tor fetches no other.`,
		Example: `  balancer descriptor fetch --control unix:/run/tor/control ADDRESS > fetched
  balancer descriptor show --address ADDRESS fetched`,
		Args: misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := descriptor.ParseAddress(args[0])
			if err != nil {
				return usageError{err}
			}
			cfg, err := controlConfig(path, target)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			raw, err := daemon.FetchDescriptor(ctx, cfg, address, key)
			if err != nil {
				return err
			}
			_, err = binary(cmd.OutOrStdout()).Write(raw)
			return err
		},
	}
	addControlFlags(cmd, &path, &target)
	cmd.Flags().StringVar(&key, "client-key", "", "the `FILE` of a client-authorization key (tor's .auth_private)")
	return cmd
}

// addControlFlags adds the two ways to say which tor to talk to.
func addControlFlags(cmd *cobra.Command, path, target *string) {
	addConfigFlag(cmd, path)
	cmd.Flags().StringVar(target, "control", "", "tor's control port, `unix:PATH or HOST:PORT`, instead of the configuration's")
}

// controlConfig returns a configuration that says which tor to talk to.
func controlConfig(path, target string) (*config.Config, error) {
	if target != "" {
		return &config.Config{Tor: config.Tor{Controls: []string{target}}}, nil
	}
	if path == "" {
		return nil, usageError{fmt.Errorf("say which tor to ask: --control unix:PATH or HOST:PORT, or --config FILE")}
	}
	cfg, err := config.Load(path)
	if err == nil && cfg.Tor.Own() {
		err = owner.Check(cfg.File, cfg.StateDir) // a tor would run there
	}
	return cfg, err
}
