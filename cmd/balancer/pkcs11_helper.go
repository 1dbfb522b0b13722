package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
)

// newHelperCommand is what package token starts.
func newHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    token.HelperArgument,
		Short:  "Use a PKCS #11 module for another balancer process",
		Hidden: true,
		Args:   misuse(cobra.NoArgs),
		// It protects its memory by itself, when it has said what it is called: later
		// it may not.
		PersistentPreRun: func(*cobra.Command, []string) {},
		RunE: func(*cobra.Command, []string) error {
			// Not the command's context: what ends this is the other process.
			err := helper.Run(context.Background())
			if errors.Is(err, helper.ErrByHand) {
				return usageError{err}
			}
			return err
		},
	}
}
