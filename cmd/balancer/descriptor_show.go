package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
)

// newDescriptorCommand makes "balancer descriptor" with show, verify and the
// subcommands in extra.
func newDescriptorCommand(extra ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "descriptor",
		Short: "Look at the descriptors of onion services",
		Long: `Look at the descriptors of onion services, from a file or from the HSDirs.

A descriptor is encrypted for those who know the onion address, so that every
subcommand needs it; and for each period of a day it is signed with another key,
so that it must also be known, or guessed from the clock, which period it is of.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDescriptorShowCommand(), newDescriptorVerifyCommand())
	cmd.AddCommand(extra...)
	return cmd
}

func newDescriptorShowCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --address ADDRESS FILE",
		Short: "Verify a descriptor and print all that is in it",
		Long: `Verify a descriptor as a client would, and print all that is in it, both
encrypted layers included. FILE holds the descriptor as it came from an HSDir;
"-" stands for standard input. A descriptor that a client would refuse is
refused with the layer, line and keyword at fault, and exit status 1.

Introduction points that are damaged or expired are listed apart: clients leave
them out and use the others.`,
		Example: `  balancer descriptor show --address ADDRESS fetched
  balancer descriptor fetch ADDRESS | balancer descriptor show --json --address ADDRESS -
  balancer descriptor show --address ADDRESS --now 2026-11-20T09:00:00Z old
  balancer descriptor show --address ADDRESS --client-key me.auth_private fetched`,
		Args: misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			if err != nil {
				return err
			}
			if !asJSON {
				return printDescriptor(cmd.OutOrStdout(), found)
			}
			return writeJSON(cmd.OutOrStdout(), newDescriptorView(found))
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

func newDescriptorVerifyCommand() *cobra.Command {
	var in descriptorInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --address ADDRESS FILE",
		Short: "Say whether clients would accept a descriptor",
		Long: `Say in one line whether clients would accept a descriptor, and if not, why.
The exit status is 0 if they would and 1 if not. "balancer descriptor show"
prints what is in it.`,
		Example: `  balancer descriptor verify --address ADDRESS fetched`,
		Args:    misuse(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := in.decode(cmd, args[0])
			fault := (*descriptor.ParseError)(nil)
			if asJSON && (err == nil || errors.As(err, &fault)) {
				return errors.Join(writeJSON(cmd.OutOrStdout(), newVerdictView(found, err)), err)
			}
			if err != nil {
				return err
			}
			d := found.descriptor
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "valid until %s: period %s, revision counter %d, %d introduction points, %d left out\n",
				d.SigningCert.Expires().Format(time.RFC3339), found.keys.Period, d.RevisionCounter, len(d.IntroductionPoints), len(d.Dropped))
			return err
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}
