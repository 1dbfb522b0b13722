// Command balancer is an onion-service load balancer: it publishes the
// introduction points of several backend onion services under one public
// onion address.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = "devel"

// Exit statuses, the same for every subcommand.
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes the command line and returns the exit status.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		plainUsages(root)
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(os.Stderr, "balancer: %v\n", err)
	if misuse := (usageError{}); errors.As(err, &misuse) {
		return exitMisuse
	}
	return exitFailed
}

// newRootCommand assembles the subcommands, in the order an operator meets them.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "balancer",
		Short: "Load balancer for onion services",
		Long: `balancer publishes the introduction points of several backend onion services
("instances") under one public onion address. Clients of the public address
spread over the instances and leave a dead one by themselves.

Begin with "balancer demo", which shows it on a private Tor network, or with
"balancer key new" and "balancer check --config FILE" for a real one.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          misuse(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newRunCommand(),
		newCheckCommand(),
		newStatusCommand(),
		newKeyCommand(),
		newCeremonyCommand(),
		newDescriptorCommand(newDescriptorFetchCommand()),
		newHSDirsCommand(),
		newTestnetCommand(),
		newDemoCommand(),
		newVersionCommand(),
		newHelperCommand(),
	)
	return root
}

// misuse turns the complaints of an argument check into usage errors.
func misuse(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
		}
		return nil
	}
}
