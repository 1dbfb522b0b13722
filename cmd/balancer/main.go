// Command balancer is an onion-service load balancer: it publishes the
// introduction points of several backend onion services under one public
// onion address.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"onionbalancer/keystore/token"
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
	root.SetOut(newOutput(os.Stdout))
	root.SetErr(newOutput(os.Stderr))
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		unquoteUsage(root)
	}
	token.LogTo(slog.New(slog.NewTextHandler(root.ErrOrStderr(), nil))) // until a daemon has a log of its own
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	complain(root.ErrOrStderr(), append([]string{os.Args[0]}, args...), err)
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
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Of every command, so that none that has a secret can lack it. cobra calls
		// only the innermost of such functions: no command may have its own.
		PersistentPreRun: func(*cobra.Command, []string) { protectMemory() },
		Args:             misuse(cobra.NoArgs),
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate(versionLine())
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

// unquoteUsage takes the quotes out of the descriptions of flags, which mark the
// name of a value for --help and which shell completion shows as they are.
func unquoteUsage(cmd *cobra.Command) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	for _, c := range cmd.Commands() {
		unquoteUsage(c)
	}
}

// misuse turns the complaints of an argument check into usage errors, with the
// subcommands that may have been meant.
func misuse(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			if meant := suggestions(cmd, args); meant != "" {
				err = fmt.Errorf("%w; did you mean %s?", err, meant)
			}
			return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
		}
		return nil
	}
}

// suggestions names the subcommands that are spelt much like the argument.
func suggestions(cmd *cobra.Command, args []string) string {
	if !cmd.HasSubCommands() || len(args) == 0 {
		return ""
	}
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	var names []string
	for _, name := range cmd.SuggestionsFor(args[0]) {
		names = append(names, strconv.Quote(name))
	}
	return strings.Join(names, " or ")
}
