package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/printable"
)

func newCustomerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "customer",
		Short: "Give customers of shards an onion address, and look after them",
		Long: `Give customers an onion address of their own on the shared instances of a shard, and
look after them, while balancer runs. A control panel does the same over HTTP on the
status socket; doc/hosting.md has the whole story.`,
	}
	addCommands(cmd, newCustomerAddCommand(), newCustomerSuspendCommand(), newCustomerResumeCommand(), newCustomerRemoveCommand(),
		newCustomerMoveCommand(), newCustomerListCommand(), newCustomerShowCommand(), newCustomerEventsCommand(), newCustomerImportCommand())
	return cmd
}

// customerFlags are those of the commands about customers.
type customerFlags struct {
	path, socket string
	json         bool
	wait         bool
	timeout      time.Duration
}

func (f *customerFlags) add(cmd *cobra.Command) {
	addConfigFlag(cmd, &f.path)
	cmd.Flags().StringVar(&f.socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().BoolVar(&f.json, "json", false, "print as JSON, for programs")
}

func (f *customerFlags) addWait(cmd *cobra.Command, until string) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until "+until)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "with --wait: give up after this `DURATION`, such as 10m")
}

// with calls do with a client of the running balancer, and adds advice to its error.
func (f *customerFlags) with(cmd *cobra.Command, do func(context.Context, api.Client) error) error {
	if f.timeout != 0 && !f.wait {
		return usageError{errors.New("--timeout goes with --wait")}
	}
	socket, broken, err := statusSocket(f.path, f.socket)
	if err != nil {
		return err
	}
	client := api.Client(socket)
	err = do(cmd.Context(), client)
	refused := (*api.Error)(nil)
	if !errors.As(err, &refused) {
		return asked(err, broken)
	}
	if refused.Code == api.CodeNoShard {
		if advice := shardAdvice(cmd.Context(), client); advice != "" {
			return fmt.Errorf("%w; %s", err, advice)
		}
	}
	return err
}

// shardAdvice says which shards there are.
func shardAdvice(ctx context.Context, client api.Client) string {
	shards, err := client.Shards(ctx)
	if err != nil {
		return ""
	}
	if len(shards) == 0 {
		return "the configuration in force has no [[shard]]: doc/hosting.md says how to make one"
	}
	names := make([]string, len(shards))
	for n, s := range shards {
		names[n] = s.Name
	}
	return "there are " + strings.Join(names, ", ")
}

func newCustomerAddCommand() *cobra.Command {
	var f customerFlags
	var shard, request string
	cmd := &cobra.Command{
		Use:   "add [NAME] --config FILE",
		Short: "Give a customer an onion address",
		Long: `Give a customer an onion address: one of a shard's spares, whose keys were made
beforehand, so that the customer is served in seconds and no tor is restarted. It
prints the address, and nothing else, on standard output.

NAME is the customer's in commands, the log and the API: 1 to 128 letters, digits, ".",
"_" and "-". Without one the customer is called as the address is. Who has the name
already is printed again, so that the command can be repeated.

The address is the customer's when it is printed, and is kept. With --wait it returns
when HSDirs have confirmed it, which visitors need.`,
		Example: `  balancer customer add shop.example --config /etc/balancer/balancer.toml
  balancer customer add shop.example --shard s1 --wait --timeout 2m --config /etc/balancer/balancer.toml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			return f.with(cmd, func(ctx context.Context, client api.Client) error {
				d, added, err := client.Add(ctx, name, shard, request)
				if err != nil {
					return err
				}
				who, what := d.Name, "added"
				if who == d.Address.Label() {
					who = "a customer without a name"
				}
				if !added {
					what = "there already"
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s is %s, on the shard %s\n", printable.Text(who), what, printable.Text(d.Shard))
				return f.report(cmd, client, d, func(w io.Writer, d api.Detail) { fmt.Fprintln(w, d.Address) })
			})
		},
	}
	f.add(cmd)
	f.addWait(cmd, "HSDirs have confirmed the address")
	cmd.Flags().StringVar(&shard, "shard", "", "on the `SHARD` of this name. Default: the one with the most spares")
	cmd.Flags().StringVar(&request, "request-id", "", "an `ID` of your choice: the same again is answered with the same customer")
	return cmd
}

func newCustomerSuspendCommand() *cobra.Command {
	cmd := newCustomerChangeCommand("suspend", hosting.Suspended, "Serve a customer no more, until it is resumed",
		`Serve a customer no more, until "balancer customer resume": descriptors without
introduction points are published for the address, so that clients who ask find nobody.
The address stays the customer's.

Clients that have the older descriptor keep it for up to a day, and the replicas go on
answering for the address: your web server, which knows the customer by the Host header,
has to refuse it as well.`)
	return cmd
}

func newCustomerResumeCommand() *cobra.Command {
	return newCustomerChangeCommand("resume", hosting.Active, "Serve a suspended customer again",
		`Serve a customer again, after "balancer customer suspend".`)
}

// newCustomerChangeCommand is a command that brings a customer into a state.
func newCustomerChangeCommand(word string, to hosting.State, short, long string) *cobra.Command {
	var f customerFlags
	cmd := &cobra.Command{
		Use:     word + " NAME|ADDRESS --config FILE",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  balancer customer %s shop.example --config /etc/balancer/balancer.toml", word),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.change(cmd, args[0], api.Change{To: to})
		},
	}
	f.add(cmd)
	f.addWait(cmd, "HSDirs have confirmed it")
	return cmd
}

func newCustomerRemoveCommand() *cobra.Command {
	var f customerFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME|ADDRESS --config FILE",
		Short: "Remove a customer and its address for good",
		Long: `Remove a customer and its address for good: descriptors without introduction points are
published for a while, then nothing. The name is free again, the address is not given to
anybody else. The key is kept among the removed of the shard until you delete it there.

It says what clients and the replicas know of the address from then on, and for how long.
It asks for the name first, unless --yes is given.`,
		Example: `  balancer customer remove shop.example --config /etc/balancer/balancer.toml
  balancer customer remove shop.example --yes --config /etc/balancer/balancer.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := f.confirm(cmd, args[0]); err != nil {
					return err
				}
			}
			return f.change(cmd, args[0], api.Change{To: hosting.Removed})
		},
	}
	f.add(cmd)
	f.addWait(cmd, "HSDirs have confirmed it")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirm has an operator type the name of the customer that is to be removed.
func (f *customerFlags) confirm(cmd *cobra.Command, customer string) error {
	return f.with(cmd, func(ctx context.Context, client api.Client) error {
		d, err := client.Customer(ctx, customer)
		if err != nil {
			return err
		}
		name := printable.Text(d.Name)
		answer, err := ask(ctx, fmt.Sprintf("%s, %s, would be lost to the customer for good. Type its name, %s, to remove it: ", name, d.Address, name),
			"--yes removes the customer without asking", cmd.ErrOrStderr(), os.Stdin)
		if err != nil {
			return err
		}
		if answer != d.Name {
			return errors.New("not removed: that is not its name")
		}
		return nil
	})
}

func newCustomerMoveCommand() *cobra.Command {
	var f customerFlags
	cmd := &cobra.Command{
		Use:   "move NAME|ADDRESS SHARD --config FILE",
		Short: "Move a customer, with its address, to another shard",
		Long: `Move a customer, with its address, to another shard, whose replicas serve it from then on.

They have to know the address before. If they do not, it is written down that the customer
is wanted there, and the command says what comes next: the shard's ob_config is written
anew by "balancer shard refill", the replicas are restarted with it, one after the other,
and "balancer shard installed" tells so. Then the same command moves the customer. It is
served all the time.`,
		Example: "  balancer customer move shop.example s2 --config /etc/balancer/balancer.toml",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.change(cmd, args[0], api.Change{Shard: args[1]})
		},
	}
	f.add(cmd)
	f.addWait(cmd, "HSDirs have confirmed it")
	return cmd
}

// change makes a change of a customer, and prints what is so then.
func (f *customerFlags) change(cmd *cobra.Command, customer string, change api.Change) error {
	return f.with(cmd, func(ctx context.Context, client api.Client) error {
		d, err := client.Change(ctx, customer, change)
		if err != nil {
			return err
		}
		var notYet error
		if f.wait && change.Shard != "" && d.Shard != change.Shard {
			f.wait, notYet = false, fmt.Errorf("%s is not on the shard %s yet: its notes say what comes next", d.Name, change.Shard)
		}
		return errors.Join(f.report(cmd, client, d, printChanged), notYet)
	})
}

// report prints a customer, once HSDirs have confirmed it if that is waited for. What is
// for people is printed before the wait.
func (f *customerFlags) report(cmd *cobra.Command, client api.Client, d api.Detail, text func(io.Writer, api.Detail)) error {
	if !f.json {
		if err := writeText(cmd.OutOrStdout(), func(w io.Writer) { text(w, d) }); err != nil {
			return err
		}
	}
	if f.wait {
		var err error
		if d, err = f.waitConfirmed(cmd, client, d); err != nil {
			return err
		}
	}
	if f.json {
		return writeJSON(cmd.OutOrStdout(), d)
	}
	return nil
}

// confirmedEvery is how often waiting for HSDirs asks.
const confirmedEvery = 500 * time.Millisecond

// waitConfirmed waits until HSDirs have what should be published of a customer, and returns
// what is so then.
func (f *customerFlags) waitConfirmed(cmd *cobra.Command, client api.Client, last api.Detail) (api.Detail, error) {
	ctx := cmd.Context()
	if f.timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		ctx = limited
	}
	progress := newProgressLine(cmd.ErrOrStderr())
	defer progress.clear()
	heard := time.Now()
	for last.Confirmed.IsZero() {
		text := publishedText(last)
		d, err := client.Customer(ctx, last.Address.String())
		refused := (*api.Error)(nil)
		switch {
		case err == nil:
			if d.State != last.State {
				return d, fmt.Errorf("waiting for %s: it is %s meanwhile", last.Name, d.State)
			}
			last, heard, text = d, time.Now(), publishedText(d)
		case ctx.Err() != nil:
		case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError || time.Since(heard) > waitSilence:
			return last, fmt.Errorf("waiting for %s: %w", last.Name, err)
		default:
			text = err.Error()
		}
		progress.tell(last.Name + ": " + text)
		select {
		case <-time.After(confirmedEvery):
		case <-ctx.Done():
			return last, fmt.Errorf("%s is %s, but HSDirs have not confirmed it yet: %s", last.Name, last.State, text)
		}
	}
	progress.clear()
	progress.say("%s: confirmed", printable.Text(last.Name))
	return last, nil
}
