package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/health"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
)

// operateFlags are those of the commands by which an operator says something about an
// instance while balancer runs.
type operateFlags struct {
	path, socket string
	service      string
	force, json  bool
	wait         bool
	timeout      time.Duration
}

const instanceLong = `
NAME is the instance's name in the configuration, or its onion address. If several
services or shards use that instance, it is meant for all of them; if the name stands for
another instance in another one, --service says which. What is said is kept over
restarts of balancer, and shown by "balancer status".`

const waitLong = `
With --wait it returns when the instance's tor can be stopped without loss, and fails if
it was interrupted before; the instance stays as it is. A client keeps a descriptor that
it has fetched until the network's next time period begins, at 12:00 UTC, and notices
that within two hours more. So this can take up to 26 hours: to stop the instance
earlier costs the visitors who still have an older descriptor about a second, and open
connections. How long visitors stay connected is not known to balancer.`

func newDrainCommand() *cobra.Command {
	return newTakeOutCommand(health.Drain, "Send no new visitors to an instance", `Send no new visitors to an instance: its introduction points leave the descriptors of
all services at once. Visitors who are connected stay, and those who have fetched an
older descriptor may still come. "balancer ready" brings it back.

The last instance of a service that is in service is not drained without --force.`)
}

func newMaintCommand() *cobra.Command {
	return newTakeOutCommand(health.Maint, "Send no new visitors to an instance, and do not check it", `Send no new visitors to an instance, and do not check it: it is under maintenance, and
what it does is of no interest. As with "balancer drain", its introduction points leave
the descriptors of all services at once, and "balancer ready" brings it back.

The last instance of a service that is in service is not taken out without --force.`)
}

func newTakeOutCommand(word health.Admin, short, long string) *cobra.Command {
	var f operateFlags
	cmd := &cobra.Command{
		Use:   string(word) + " NAME --config FILE",
		Short: short,
		Long:  long + "\n" + instanceLong + "\n" + waitLong,
		Example: fmt.Sprintf("  balancer %[1]s web1 --config /etc/balancer/balancer.toml\n"+
			"  balancer %[1]s web1 --config /etc/balancer/balancer.toml --wait --timeout 30h && ssh web1 reboot", word),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.operate(cmd, status.Order{Word: string(word), Instance: args[0]})
		},
	}
	f.add(cmd)
	f.addForce(cmd)
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until the instance's tor can be stopped without loss")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "with --wait: give up after this `DURATION`, such as 30h")
	return cmd
}

func newReadyCommand() *cobra.Command {
	var f operateFlags
	cmd := &cobra.Command{
		Use:   "ready NAME --config FILE",
		Short: "Send visitors to an instance again",
		Long: `Send visitors to an instance again, after "balancer drain" or "balancer maint". A weight
that was set by "balancer weight" stays.

An instance that was down twice within an hour stays out for a while although its checks
pass. "balancer ready" ends that, too: whoever says so has mended it.
` + instanceLong,
		Example: "  balancer ready web1 --config /etc/balancer/balancer.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.operate(cmd, status.Order{Word: string(health.Ready), Instance: args[0]})
		},
	}
	f.add(cmd)
	return cmd
}

func newWeightCommand() *cobra.Command {
	var f operateFlags
	cmd := &cobra.Command{
		Use:   "weight NAME WEIGHT --config FILE",
		Short: "Change an instance's share of the visitors",
		Long: `Change an instance's share of the visitors, until balancer is told otherwise. WEIGHT is a
share of the weight in the configuration, such as 50%; or a number from 0 to 256 that
stands instead of it; or "default", for the configuration's. Where no weights are
configured each is 1, so 50% gives an instance half of what each other one has.

An instance of weight 0 gets no new visitors, as after "balancer drain". Other weights
are heeded by the strategies "spread", "weighted" and "least-loaded", as nearly as whole
introduction points allow.
` + instanceLong,
		Example: `  balancer weight web1 50% --config /etc/balancer/balancer.toml
  balancer weight web1 default --config /etc/balancer/balancer.toml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := health.ParseWeight(args[1]); err != nil {
				return usageError{err}
			}
			return f.operate(cmd, status.Order{Word: "weight", Instance: args[0], Weight: args[1]})
		},
	}
	f.add(cmd)
	f.addForce(cmd)
	return cmd
}

func newLoadCommand() *cobra.Command {
	var f operateFlags
	var long time.Duration
	cmd := &cobra.Command{
		Use:   "load NAME LOAD|- --config FILE",
		Short: "Say how loaded an instance is",
		Long: `Say how loaded an instance is: its load average, the length of a queue, open
connections. LOAD is a number from 0 on, in any unit that is the same for all instances
of a service; "-" takes it back. The strategy "least-loaded" gives an instance of twice
the load half of the visitors, and strategies from outside ("exec:…") are told.

It counts for ten minutes, or for as long as --for says, then as if it had not been
said; and it is not kept over a restart of balancer. So a program says it again and
again, cron every few minutes for instance:

  balancer load web1 $(ssh web1 cut -d' ' -f1 /proc/loadavg) --config balancer.toml

Shares follow when the descriptor is next renewed, after an hour or two: a load that
changes faster cannot be followed, since clients keep the descriptors that they have.
An agent can say its instance's load, too: the word "load:1.5" in its line.

NAME is the instance's name in the configuration, or its onion address. If several
services or shards use that instance, it is meant for all of them; if the name stands for
another instance in another one, --service says which.`,
		Example: `  balancer load web1 0.75 --config /etc/balancer/balancer.toml
  balancer load web1 12 --for 1h --config /etc/balancer/balancer.toml
  balancer load web1 - --config /etc/balancer/balancer.toml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := health.ParseLoad(args[1]); err != nil {
				return usageError{err}
			}
			if long <= 0 {
				return usageError{fmt.Errorf("--for %s: want a time from now on, such as 10m", long)}
			}
			return f.operate(cmd, status.Order{Word: "load", Instance: args[0], Load: args[1], Seconds: long.Seconds()})
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&long, "for", health.LoadKept, "how long it counts, a `DURATION` of up to 24h")
	return cmd
}

func (f *operateFlags) add(cmd *cobra.Command) {
	addConfigFlag(cmd, &f.path)
	cmd.Flags().StringVar(&f.socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().StringVar(&f.service, "service", "", "the instance of that name of the service with this `ADDRESS`, or of the shard of this name")
	cmd.Flags().BoolVar(&f.json, "json", false, "print as JSON, for programs")
}

func (f *operateFlags) addForce(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.force, "force", false, "even if no other instance of a service is in service")
}

// operate has the running balancer carry out an order, and prints what came of it.
func (f *operateFlags) operate(cmd *cobra.Command, o status.Order) error {
	if f.timeout != 0 && !f.wait {
		return usageError{errors.New("--timeout goes with --wait")}
	}
	socket, broken, err := statusSocket(f.path, f.socket)
	if err != nil {
		return err
	}
	o.Service, o.Force = f.service, f.force
	answer, err := status.Operate(cmd.Context(), socket, o)
	if err != nil {
		return asked(err, broken)
	}
	if f.wait {
		if !f.json {
			if err := writeText(cmd.OutOrStdout(), func(w io.Writer) { printAnswer(w, answer) }); err != nil {
				return err
			}
		}
		if answer, err = f.waitSafe(cmd, socket, answer); err != nil {
			return err
		}
		return show(cmd, f.json, answer, func(w io.Writer) { fmt.Fprintf(w, "%s can be stopped\n", printable.Text(o.Instance)) })
	}
	return show(cmd, f.json, answer, func(w io.Writer) { printAnswer(w, answer) })
}

// printAnswer prints what is so after an order.
func printAnswer(w io.Writer, a status.Answer) {
	text := a.Admin
	if a.Weight != health.DefaultWeight {
		text += ", weight " + a.Weight
	}
	fmt.Fprintf(w, "%s is %s\n", printable.Text(a.Address), printable.Text(text))
	for _, u := range a.Uses {
		fmt.Fprintf(w, "  %s of %s", printable.Text(u.Instance.Name), printable.Text(u.Name()))
		if u.Instance.Drain != nil {
			fmt.Fprintf(w, ": %s", drainText(time.Now(), u.Instance.Drain))
		}
		if u.Instance.Load != nil {
			fmt.Fprintf(w, ": load %s until %s", number(u.Instance.Load.Value), clock(u.Instance.Load.Until))
		}
		fmt.Fprintln(w)
	}
	for _, note := range a.Notes {
		fmt.Fprintf(w, "  note: %s\n", printable.Text(note))
	}
}

// drainText says how far an instance is on its way out of a service.
func drainText(now time.Time, d *status.Drain) string {
	switch {
	case d.Safe:
		return "it can be stopped"
	case d.Stays:
		return "its introduction points stay published, as no other instance is in service"
	case d.Left.IsZero() && d.Pending == 0:
		return "no descriptor without its introduction points is published yet"
	case d.Left.IsZero() && d.Customers > 0:
		return fmt.Sprintf("%s of %s may still have its introduction points", plural(d.Pending, "HSDir"), plural(d.Customers, "customer"))
	case d.Left.IsZero():
		return plural(d.Pending, "HSDir") + " may still have its introduction points"
	case d.SafeAt.IsZero():
		return "no HSDir has its introduction points any more"
	}
	return fmt.Sprintf("no HSDir has its introduction points any more; it can be stopped at %s, in %s, when no client has an older descriptor",
		moment(d.SafeAt.Add(time.Minute-1)), roughly(d.SafeAt.Sub(now)))
}

// How often waiting asks, and how long it goes on without an answer: balancer may be
// restarted meanwhile.
const (
	waitEvery   = 2 * time.Second
	waitSilence = 5 * time.Minute
)

// waitSafe waits until an instance can be stopped, and returns what is so then.
func (f *operateFlags) waitSafe(cmd *cobra.Command, socket string, last status.Answer) (status.Answer, error) {
	ctx := cmd.Context()
	var timeout <-chan time.Time
	if f.timeout > 0 {
		timeout = time.After(f.timeout)
	}
	progress := newProgressLine(cmd.ErrOrStderr())
	defer progress.clear()
	heard := time.Now()
	for {
		answer, err := status.QueryInstance(ctx, socket, last.Address, "")
		refused := (*status.RefusedError)(nil)
		switch {
		case err == nil:
			last, heard = answer, time.Now()
		case ctx.Err() != nil:
		case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError || time.Since(heard) > waitSilence:
			return last, fmt.Errorf("waiting until %s can be stopped: %w", last.Address, err)
		}
		out := func(u status.Use) bool { return u.Instance.Drain != nil }
		slow := slices.IndexFunc(last.Uses, func(u status.Use) bool { return !out(u) || !u.Instance.Drain.Safe })
		if slow < 0 {
			return last, nil
		}
		if !slices.ContainsFunc(last.Uses, out) {
			return last, fmt.Errorf("waiting until %s can be stopped: it was set to %q meanwhile", last.Address, last.Admin)
		}
		text := last.Uses[slow].Name() + ": it is in service"
		if out(last.Uses[slow]) {
			text = fmt.Sprintf("%s: %s", last.Uses[slow].Name(), drainText(time.Now(), last.Uses[slow].Instance.Drain))
		}
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		progress.tell(text)
		select {
		case <-time.After(waitEvery):
			continue
		case <-timeout:
		case <-ctx.Done():
		}
		return last, fmt.Errorf("%s cannot be stopped without loss yet, and stays %s: %s", last.Address, last.Admin, text)
	}
}
