package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore/offline"
)

func newCeremonyInstallCommand() *cobra.Command {
	var configPath, dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "install BUNDLE... {--config FILE | --dir DIR}",
		Short: "Install what was signed offline",
		Long: `Checks bundles, or parts of one, and puts them into the directories of their
addresses: those that are keys in the configuration, or DIR, or those in DIR. Of a
directory BUNDLE, all files *.json are meant.

Checked is, for every entry, that the holder of the onion address signed it as it
stands; that the certificate is by the blinded key of that address and period, of
the right type, for the very signing key that is here, and good until the period's
descriptor is no longer used. If anything is wrong, nothing is replaced, for no
address. Periods that are over are left out.

What is installed already stays: a bundle adds to it. Installing one twice, or an
older one after a newer one, does no harm. A running balancer notices by itself,
without SIGHUP. The exit status is 0 also if there are warnings.`,
		Example: `  balancer ceremony install bundle.json --config /etc/balancer/balancer.toml
  balancer ceremony install codes/ --dir front.offline`,
		Args: misuse(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := installBundles(args, configPath, dir)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), done)
			}
			return writeInstalled(cmd.OutOrStdout(), done, time.Now())
		},
	}
	addConfigFlag(cmd, &configPath)
	addKeysDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func installBundles(paths []string, configPath, dir string) ([]offline.Installed, error) {
	targets, err := preparedIn(configPath, dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, t := range targets {
		dirs = append(dirs, t.dir)
	}
	if err := owner.Check(dirs...); err != nil {
		return nil, err
	}
	var bundles []*offline.Bundle
	if paths, err = documents(paths); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	for _, path := range paths {
		raw, err := offline.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the bundle: %w", err)
		}
		b, err := offline.ParseBundle(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		bundles = append(bundles, b)
	}
	return offline.Install(dirs, bundles, time.Now())
}

func writeInstalled(w io.Writer, list []offline.Installed, now time.Time) error {
	for _, i := range list {
		fmt.Fprintf(w, "%s\n", i.Address)
		fmt.Fprintf(w, "  in %s: %d periods new, %d renewed, %d as before, %d over and left out\n", printable.Text(i.Dir), i.New, i.Renewed, i.Kept, i.Over)
		switch {
		case i.Through == 0:
		case i.Until.After(now):
			fmt.Fprintf(w, "  the supply lasts until %s, for %s (period %d)\n", moment(i.Until), days(now, i.Until), i.Through)
		default:
			fmt.Fprintf(w, "  the supply ended at %s (period %d)\n", moment(i.Until), i.Through)
		}
		for _, warning := range i.Warnings {
			fmt.Fprintf(w, "  WARNING: %s\n", warning)
		}
	}
	_, err := fmt.Fprintln(w, "A running balancer takes it over by itself; balancer status tells.")
	return err
}
