package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/logging"
	"onionbalancer/internal/owner"
	"onionbalancer/keystore"
)

func newRunCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the balancer",
		Long: `Run the balancer in the foreground until SIGTERM or Ctrl-C.

It fetches the descriptors of each service's instances, publishes a master
descriptor under the service's own address, and keeps it up to date. Without a
[tor] table in the configuration it starts a tor of its own and stops it on exit.

SIGHUP reloads the configuration. If anything is wrong with it, the old one
stays in force; the log and "balancer status" say why. Published descriptors
stay on the HSDirs for about three hours after the balancer stops.

The log goes to standard error. If it is blocked or full, the balancer continues,
and counts the lines that are lost.`,
		Example: `  balancer check --config /etc/balancer/balancer.toml
  balancer run --config /etc/balancer/balancer.toml
  balancer status --config /etc/balancer/balancer.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// A closed log is no reason to stop, and a blocked one must not keep the
			// process from exiting with an error.
			signal.Ignore(syscall.SIGPIPE)
			cfg, err := loadOwnConfig(path)
			if err == nil {
				err = runDaemon(cmd.Context(), cfg, cmd.ErrOrStderr())
			}
			if err != nil {
				time.AfterFunc(lastWords, func() { os.Exit(exitFailed) })
			}
			return err
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}

// lastWords is how long the end waits for somebody to read why.
const lastWords = 5 * time.Second

// runDaemon runs until ctx ends, and takes SIGHUP as the wish for a reload.
func runDaemon(ctx context.Context, cfg *config.Config, out io.Writer) error {
	daemon.TuneMemory()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	logs := logging.New(cfg.Log, out)
	defer logs.Close()
	log := logs.Logger()
	d, err := daemon.New(cfg, version, log)
	if err != nil {
		return err
	}
	d.Logs = logs
	if err := d.Start(ctx); err != nil {
		return err
	}
	defer d.Stop()
	log.Info("balancer is running", "version", version, "services", len(cfg.Services), "shards", len(cfg.Shards), "pid", os.Getpid())
	for {
		select {
		case <-ctx.Done():
			log.Info("stopping")
			return nil
		case <-hangup:
			reload(d, cfg.File)
		}
	}
}

// reload reads the file again; on an error d stays as it is. The daemon
// records the result.
func reload(d *daemon.Daemon, path string) {
	cfg, err := config.Load(path)
	if err != nil {
		d.ReloadFailed(err)
		return
	}
	_ = d.Reload(cfg)
}

// addConfigFlag adds the flag that names the configuration.
func addConfigFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the configuration `FILE` (TOML)")
	_ = cmd.MarkFlagFilename("config", "toml")
}

// loadConfig reads the operator's configuration.
func loadConfig(path string) (*config.Config, error) {
	if path == "" {
		return nil, usageError{fmt.Errorf("name the configuration with --config FILE")}
	}
	return config.Load(path)
}

// loadOwnConfig is loadConfig for commands that run a tor in the state directory.
func loadOwnConfig(path string) (*config.Config, error) {
	cfg, err := loadConfig(path)
	if err == nil {
		err = owner.Check(cfg.File, cfg.StateDir)
	}
	return cfg, err
}

// findService returns the service of the address and its address: without one, the only
// service that is wanted. what are the services that are wanted.
func findService(cfg *config.Config, address, what string, wanted func(config.Service) bool) (found config.Service, a descriptor.Address, err error) {
	if address != "" {
		if a, err = descriptor.ParseAddress(address); err != nil {
			return found, a, usageError{fmt.Errorf("--service: %w", err)}
		}
	}
	number := 0
	for _, s := range cfg.Services {
		if address == "" && !wanted(s) {
			continue
		}
		custodian, err := keystore.Open(s.Key)
		if err != nil {
			return found, a, err
		}
		its := custodian.Address()
		if err := custodian.Close(); err != nil {
			return found, a, err
		}
		if address == "" || its == a {
			found, a = s, its
			number++
		}
	}
	switch {
	case number == 1:
		return found, a, nil
	case number > 1:
		return found, a, usageError{fmt.Errorf("%s has %d %s: name one with --service ADDRESS", cfg.File, number, what)}
	case address != "":
		return found, a, usageError{fmt.Errorf("--service: %s has no service with the address %s", cfg.File, address)}
	}
	return found, a, fmt.Errorf("%s has no %s", cfg.File, what)
}

// addServiceFlag adds the flag that findService takes the address from.
func addServiceFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "service", "", "the `ADDRESS` of the service, if the configuration has several")
}

// stateDir returns the state directory that the configuration names, even if
// something else is wrong with it: broken then says what.
func stateDir(path string) (dir string, broken, err error) {
	cfg, err := loadConfig(path)
	if errors.As(err, new(*config.Error)) {
		return config.StateDir(path), err, nil
	}
	if err != nil {
		return "", nil, err
	}
	return cfg.StateDir, nil, nil
}
