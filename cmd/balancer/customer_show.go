package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/printable"
)

func newCustomerListCommand() *cobra.Command {
	var f customerFlags
	var q api.Query
	var state string
	var all bool
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List customers",
		Long: `List customers, in the order of their addresses: all that are not removed, or those that
the flags say.`,
		Example: `  balancer customer list --config /etc/balancer/balancer.toml
  balancer customer list --shard s1 --state suspended --json --config /etc/balancer/balancer.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state != "" && all {
				return usageError{errors.New("--all goes without --state")}
			}
			return f.with(cmd, func(ctx context.Context, client api.Client) error {
				states := []hosting.State{hosting.State(state)}
				if all {
					states = append(states, hosting.Removed)
				}
				list := []hosting.Customer{}
				for _, q.State = range states {
					for c, err := range client.All(ctx, q) {
						if err != nil {
							return err
						}
						list = append(list, c)
					}
				}
				return show(cmd, f.json, map[string]any{"customers": list}, table(func(w io.Writer) { printCustomers(w, list) }))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&q.Shard, "shard", "", "those of this `SHARD`")
	cmd.Flags().StringVar(&state, "state", "", "those that are in this `STATE`: active, suspended or removed")
	cmd.Flags().StringVar(&q.Name, "name", "", "those whose name begins with `TEXT`")
	cmd.Flags().BoolVar(&all, "all", false, "the removed as well")
	return cmd
}

func printCustomers(w io.Writer, list []hosting.Customer) {
	if len(list) == 0 {
		return
	}
	fmt.Fprint(w, "name\tshard\tstate\tsince\taddress\t\n")
	for _, c := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", printable.Text(c.Name), printable.Text(c.Shard), printable.Text(string(c.State)), moment(c.Since), c.Address)
	}
}

func newCustomerShowCommand() *cobra.Command {
	var f customerFlags
	cmd := &cobra.Command{
		Use:   "show NAME|ADDRESS --config FILE",
		Short: "Show a customer, and how its address is published",
		Long: `Show a customer, by name or address, and how its address is published. Of several who
had a name it shows the one who has it now, or had it last.`,
		Example: "  balancer customer show shop.example --config /etc/balancer/balancer.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, func(ctx context.Context, client api.Client) error {
				d, err := client.Customer(ctx, args[0])
				if err != nil {
					return err
				}
				return show(cmd, f.json, d, table(func(w io.Writer) { printDetail(w, d) }))
			})
		},
	}
	f.add(cmd)
	return cmd
}

// printDetail prints all that is known of a customer.
func printDetail(w io.Writer, d api.Detail) {
	fmt.Fprintf(w, "name\t%s\n", printable.Text(d.Name))
	fmt.Fprintf(w, "address\t%s\n", d.Address)
	fmt.Fprintf(w, "shard\t%s\n", printable.Text(whereText(d)))
	fmt.Fprintf(w, "state\t%s since %s\n", printable.Text(string(d.State)), clock(d.Since))
	request := ""
	if d.Request != "" {
		request = ", by the request " + d.Request
	}
	fmt.Fprintf(w, "added\t%s%s\n", clock(d.Added), printable.Text(request))
	fmt.Fprintf(w, "published\t%s\n", printable.Text(publishedText(d)))
	for _, text := range afterwards(d) {
		fmt.Fprintf(w, "note\t%s\n", printable.Text(text))
	}
}

// printChanged prints what is so after a change.
func printChanged(w io.Writer, d api.Detail) {
	fmt.Fprintf(w, "%s is %s, on the shard %s\n", printable.Text(d.Name), printable.Text(string(d.State)), printable.Text(whereText(d)))
	fmt.Fprintf(w, "  %s\n", d.Address)
	fmt.Fprintf(w, "  %s\n", printable.Text(publishedText(d)))
	for _, text := range afterwards(d) {
		fmt.Fprintf(w, "  note: %s\n", printable.Text(text))
	}
}

// publishedText says how far HSDirs are.
func publishedText(d api.Detail) string {
	text := plural(d.Points, "introduction point")
	switch {
	case d.State != hosting.Active && !d.Confirmed.IsZero():
		text = "withdrawn"
	case d.State != hosting.Active:
		text = "being withdrawn"
	}
	switch {
	case !d.Confirmed.IsZero():
		text += ", confirmed at " + clock(d.Confirmed)
	case d.Slots > 0:
		text += fmt.Sprintf(", %d of %s have it so far", d.Stored, plural(d.Slots, "HSDir"))
	case d.State == hosting.Active:
		text += ", not published yet"
	}
	if d.Error != "" {
		text += ": " + d.Error
	}
	return text
}

// whereText is a customer's shard.
func whereText(d api.Detail) string {
	if d.MovingTo != "" {
		return d.Shard + ", to move to " + d.MovingTo
	}
	return d.Shard
}

// afterwards says what clients and replicas know of an address.
func afterwards(d api.Detail) (list []string) {
	if !d.Forgotten.IsZero() {
		list = append(list, fmt.Sprintf("no client has its introduction points any more from %s on", moment(d.Forgotten.Add(time.Minute-1))))
	}
	return append(list, d.Notes...)
}

func newCustomerEventsCommand() *cobra.Command {
	var f customerFlags
	var follow bool
	cmd := &cobra.Command{
		Use:   "events --config FILE",
		Short: "Show what happened to customers and shards",
		Long: `Show what happened to customers and shards: those events that balancer still has, a line
each. With --follow it goes on with those to come, also over a restart of balancer.
With --json a line is an object, as the API has it.`,
		Example: `  balancer customer events --config /etc/balancer/balancer.toml
  balancer customer events --follow --json --config /etc/balancer/balancer.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, client api.Client) error {
				return followEvents(ctx, client, follow, func(e api.Event) error {
					return showLine(cmd, f.json, e, func(w io.Writer) { printEvent(w, e) })
				})
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with the events to come")
	return cmd
}

// followEvents takes the events that are there; if it follows them, those to come as well,
// until ctx ends.
func followEvents(ctx context.Context, client api.Client, follow bool, take func(api.Event) error) error {
	after, heard := uint64(0), time.Time{}
	for {
		err := client.Events(ctx, after, follow, func(e api.Event) error {
			after = max(after, e.ID)
			return take(e)
		})
		switch {
		case ctx.Err() != nil && follow:
			return nil // that is how it is ended
		case !follow || err != nil && time.Since(heard) > waitSilence:
			return err
		case err == nil: // the daemon ended
			heard = time.Now()
		}
		select {
		case <-time.After(waitEvery):
		case <-ctx.Done():
		}
	}
}

func printEvent(w io.Writer, e api.Event) {
	if e.Kind == api.Lost {
		fmt.Fprintf(w, "… %s\n", printable.Text(e.Text))
		return
	}
	words := []string{clock(e.At), e.Kind, e.Shard, e.Customer, e.Text}
	for n, word := range words {
		words[n] = printable.Text(word)
	}
	fmt.Fprintln(w, strings.Join(strings.Fields(strings.Join(words[:4], " ")), " ")+": "+words[4])
}
