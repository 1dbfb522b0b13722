package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/printable"
)

func newPlanCommand() *cobra.Command {
	var path, customer string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan --config FILE",
		Short: "Show what would be published now, and why, without publishing it",
		Long: `Show what would be published now, and why, without publishing it. It asks tor for
the consensus, fetches the descriptors of all instances, and plans as a running
balancer does: for each service and both of its descriptors the introduction
points, their relays and instances, in their order; the directories (HSDirs) that
they go to, which do not all get the same points if there are many instances; the
points that are left out, and why; and which share of the visitors each instance
can expect. Of a shard it plans for the first of the customers, whose points the others
share; --customer names another.

The reason "new period" means that nothing is stored for that period; without a
reason, the last published descriptor would stay. No key is asked to sign.

The exit status is 1 if a service has nothing to publish.`,
		Example: "  balancer plan --config /etc/balancer/balancer.toml --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadOwnConfig(path)
			if err != nil {
				return err
			}
			list, err := daemon.Plans(cmd.Context(), cfg, customer, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			if err := show(cmd, asJSON, list, func(out io.Writer) { printPlans(out, list) }); err != nil {
				return err
			}
			return nothingToPublish(list)
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringVar(&customer, "customer", "", "plan for one customer of a shard alone, called `NAME`, or its address")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON, for programs")
	return cmd
}

// nothingToPublish is the error of services without a descriptor.
func nothingToPublish(list []daemon.Preview) error {
	var without []string
	for _, p := range list {
		if p.Plan == nil || p.Plan.Contents == nil {
			without = append(without, p.Service.Short())
		}
	}
	if len(without) > 0 {
		return fmt.Errorf("nothing to publish for %s", strings.Join(without, ", "))
	}
	return nil
}

func printPlans(out io.Writer, list []daemon.Preview) {
	for n, p := range list {
		if n > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprint(out, p.Service)
		if p.Shard != "" {
			fmt.Fprintf(out, "  customer %s of shard %s", printable.Text(p.Customer), printable.Text(p.Shard))
		}
		fmt.Fprintln(out)
		if p.Plan == nil {
			fmt.Fprintf(out, "  error   %s\n", printable.Text(p.Error))
			continue
		}
		printPlan(out, p.Plan)
	}
}

func printPlan(out io.Writer, p *balance.Plan) {
	if p.Profile == config.ProfileOrdinary {
		fmt.Fprintln(out, "  profile ordinary: what one tor would publish, and when")
	}
	if p.Fallback {
		fmt.Fprintln(out, "  no instance is ok: these are the last introduction points known")
	}
	if p.Lifted {
		fmt.Fprintln(out, "  points.avoid leaves no introduction point, so it is not applied")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Shares)) {
		fmt.Fprintf(out, "  %-8s %3.0f %% of the visitors", printable.Text(name), 100*p.Shares[name])
		if p.OverTurns != nil {
			fmt.Fprintf(out, " now, %3.1f %% over four days", 100*p.OverTurns[name])
		}
		fmt.Fprintln(out)
	}
	if p.Why != "" {
		fmt.Fprintf(out, "  %s\n", p.Why)
	}
	for _, list := range []map[string]string{p.Out, p.Down} {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			fmt.Fprintf(out, "  %-8s left out: %s\n", printable.Text(name), printable.Text(list[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Left)) {
		for _, why := range p.Left[name] {
			fmt.Fprintf(out, "  %-8s %s\n", printable.Text(name), printable.Text(why))
		}
	}
	common := p.Common()
	if common != nil {
		fmt.Fprintln(out, "  introduction points, in their order:")
		printIntroductionPoints(out, common)
	}
	for n := range p.Targets {
		t := &p.Targets[n]
		why := "the last published descriptor stays"
		switch {
		case t.Held != "":
			why = t.Held
		case t.Reason != "":
			why = "publish: " + string(t.Reason)
		}
		fmt.Fprintf(out, "  %s descriptor, period %s: %s\n", t.Role, t.Keys.Period, why)
		for _, slot := range p.List(t) {
			note := ""
			switch {
			case slot.Left:
				note = "  (only clients with an older consensus ask it)"
			case slot.Reserve:
				note = "  (clients do not ask it now)"
			}
			fmt.Fprintf(out, "    replica %d  %s%s\n", slot.Replica, slot.HSDir, note)
			if common == nil {
				printIntroductionPoints(out, slot.Points)
			}
		}
	}
}

func printIntroductionPoints(out io.Writer, points []balance.Point) {
	for n, point := range points {
		fmt.Fprintf(out, "    %2d  %s  %s\n", n+1, point.Relay, printable.Text(point.Instance))
	}
}
