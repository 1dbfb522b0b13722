package main

import "github.com/spf13/cobra"

func newCustomerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "customer",
		Short: "Give customers of shards an onion address, and look after them",
		Long: `Give customers an onion address of their own on the shared instances of a shard, and
look after them, while balancer runs. doc/hosting.md has the whole story. A program
does the same over the status socket: doc/hosting.md, "The API".`,
	}
	addCommands(cmd, newCustomerImportCommand())
	return cmd
}
