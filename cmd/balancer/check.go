package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"onionbalancer/internal/config"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
)

func newCheckCommand() *cobra.Command {
	var path string
	var asJSON, offline bool
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check the configuration and everything that it refers to",
		Long: `Try everything that the configuration names, without publishing anything: the
file itself, the state directory, each service's key, the tor to use and its
version, the consensus and the clock, each instance's descriptor and its
introduction points, and whether they exceed the limit of 20 introduction points.
For a key sealed by a token, it has the token unseal it and certify; for signing
keys on a token, it makes one, has it sign, and destroys it again; for an offline
key, it says how long the certificates last. A strategy from outside is asked once
about a made-up example. Of a shard it opens the keys of all customers and spares, and
looks whether the files that were written for its replicas have them all. Of a cluster
it tries each server of etcd, what it lets in whom it should not, and whether keys can
be written, read and deleted; and it compares the clocks of the managers.

Each line says "ok", "warning" or "failed", and below it how to fix a problem. The
exit status is 1 if anything failed. While a tor of its own starts, its progress is
on standard error. --offline checks only the file and the keys, tokens included,
and needs no tor.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tell := func(f daemon.Finding) { printFinding(cmd, f) }
			var all []daemon.Finding
			if asJSON {
				tell = func(f daemon.Finding) { all = append(all, f) }
			}
			failed, err := check(cmd, path, offline, tell)
			if asJSON {
				err = errors.Join(err, writeJSON(cmd.OutOrStdout(), map[string]any{"ok": failed == 0, "findings": all}))
			}
			if err == nil && failed > 0 {
				err = fmt.Errorf("%d of the things checked failed", failed)
			}
			return err
		},
	}
	addConfigFlag(cmd, &path)
	addTryPINFlag(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON, all at the end")
	cmd.Flags().BoolVar(&offline, "offline", false, "check only the file and the keys")
	return cmd
}

// check runs all checks and counts the failures.
func check(cmd *cobra.Command, path string, offline bool, tell func(daemon.Finding)) (failed int, err error) {
	count := func(f daemon.Finding) {
		if f.Level == daemon.LevelFailed {
			failed++
		}
		tell(f)
	}
	cfg, err := loadOwnConfig(path)
	if errors.As(err, new(usageError)) || errors.As(err, new(*owner.Error)) {
		return 0, err
	}
	if err != nil {
		for _, fault := range config.Each(err) {
			f := daemon.Finding{What: "configuration", Level: daemon.LevelFailed, Detail: fault.Error()}
			if bad := (*config.Error)(nil); errors.As(fault, &bad) && bad.Instead != "" {
				f.Fix, f.Instead = "put this into a file of its own:", bad.Instead
			}
			count(f)
		}
		return failed, nil
	}
	count(daemon.Finding{What: "configuration " + path, Level: daemon.LevelOK, Detail: summary(cfg)})
	err = daemon.Check(cmd.Context(), cfg, offline, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), count)
	return failed, err
}

func summary(cfg *config.Config) string {
	instances, replicas := 0, 0
	for _, s := range cfg.Services {
		instances += len(s.Instances)
	}
	for _, s := range cfg.Shards {
		replicas += len(s.Instances)
	}
	services := plural(len(cfg.Services), "service") + " with " + plural(instances, "instance")
	if cfg.Cluster.Watches() {
		services = "to watch: " + plural(len(cfg.Cluster.Standby.Addresses), "public onion service")
	}
	if cfg.Cluster.Store != "" {
		services = fmt.Sprintf("cluster %s (%s), %s", cfg.Cluster.Name, cfg.Cluster.Store, services)
	}
	shards := plural(len(cfg.Shards), "shard") + " with " + plural(replicas, "replica")
	switch {
	case len(cfg.Shards) == 0:
		return services
	case len(cfg.Services) == 0 && cfg.Cluster.Store == "":
		return shards
	}
	return services + ", " + shards
}

// plural writes "1 service" and "2 services".
func plural(n int, what string) string { return printable.Count(n, what) }

func printFinding(cmd *cobra.Command, f daemon.Finding) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%-8s %s: %s\n", f.Level, oneLine(f.What), oneLine(f.Detail))
	if f.Fix != "" {
		fmt.Fprintf(out, "%-8s -> %s\n", "", oneLine(f.Fix))
	}
	if f.Instead != "" {
		fmt.Fprintf(out, "\n%s", f.Instead)
	}
}
