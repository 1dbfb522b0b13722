// Command balancer is an onion-service load balancer: it publishes the
// introduction points of several backend onion services under one public
// onion address.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/helper"
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
	// A second signal ends the process at once, whatever the first one waits for.
	context.AfterFunc(ctx, stop)
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
	}
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(badFlag)
	complete(root)
	addCommands(root,
		newRunCommand(),
		newCheckCommand(),
		newStatusCommand(),
		newDrainCommand(),
		newReadyCommand(),
		newMaintCommand(),
		newWeightCommand(),
		newLoadCommand(),
		newCustomerCommand(),
		newShardCommand(),
		newClusterCommand(),
		newPlanCommand(),
		newStateCommand(),
		newKeyCommand(),
		newClientCommand(),
		newCeremonyCommand(),
		newDescriptorCommand(),
		newHSDirsCommand(),
		newTestnetCommand(),
		newDemoCommand(),
		newVersionCommand(),
		newHelperCommand(),
	)
	return root
}

// badFlag returns the complaint about a flag that cmd does not have. If the command is none
// either, that is what is wrong.
func badFlag(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return cmd.Args(cmd, args)
	}
	unknown := (*pflag.NotExistError)(nil)
	if errors.As(err, &unknown) {
		if text := "-" + unknown.GetSpecifiedShortnames(); negative.MatchString(text) {
			err = fmt.Errorf("%s is below 0, and means nothing here", text)
		}
	}
	return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
}

// negative is what looks like a flag and is a number.
var negative = regexp.MustCompile(`^-[0-9.]+%?$`)

// addCommands puts commands below parent, in the order in which they are suggested.
func addCommands(parent *cobra.Command, commands ...*cobra.Command) {
	for _, c := range commands {
		complete(c)
	}
	parent.AddCommand(commands...)
}

// complete sets the common behaviour of a command: no arguments unless it says
// which, and help if it does nothing by itself.
func complete(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = misuse(check)
	if cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
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

// usageError marks an error as the caller's misuse of the command line, which
// ends the program with status 2 rather than 1.
type usageError struct{ error }

// Unwrap returns the complaint itself.
func (e usageError) Unwrap() error { return e.error }

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showLine(cmd, asJSON, map[string]string{"version": version, "go": runtime.Version()}, func(w io.Writer) {
				fmt.Fprint(w, versionLine())
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// versionLine is the output of "balancer version" and "balancer --version".
func versionLine() string {
	return fmt.Sprintf("balancer %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// newHelperCommand is the command started by package token.
func newHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    token.HelperArgument,
		Short:  "Use a PKCS #11 module for another balancer process",
		Hidden: true,
		// It protects its memory itself, after it has reported its name: later
		// it may not.
		PersistentPreRun: func(*cobra.Command, []string) {},
		RunE: func(*cobra.Command, []string) error {
			// Not the command's context: the other process ends this one.
			err := helper.Run(context.Background())
			if errors.Is(err, helper.ErrByHand) {
				return usageError{err}
			}
			return err
		},
	}
}

// protectMemory keeps keys out of core images and away from debuggers of the
// same user. Best effort: a kernel that refuses leaves things as they were.
func protectMemory() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
