package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
)

func newStatusCommand() *cobra.Command {
	var path, socket string
	var asJSON, asMetrics bool
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Show what the running balancer is doing",
		Long: `Show what the running balancer is doing: its tor, the consensus, and for each
service who keeps its keys and for how long, its instances, what is published
and at how many directories that is confirmed. The answer comes over a unix
socket in state_dir, which only the balancer's user can open.

The exit status is 0 if every service is "ok" or "degraded", and 1 otherwise.
With --metrics it is 0 if there was an answer.`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if socket == "" {
				cfg, err := loadConfig(path)
				if err != nil {
					return err
				}
				socket = filepath.Join(cfg.StateDir, status.SocketName)
			}
			if asMetrics {
				return status.Metrics(cmd.Context(), socket, cmd.OutOrStdout())
			}
			snapshot, err := status.Query(cmd.Context(), socket)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), snapshot)
			} else {
				err = printStatus(cmd.OutOrStdout(), snapshot)
			}
			if err != nil {
				return err
			}
			return unwell(snapshot)
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringVar(&socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	cmd.Flags().BoolVar(&asMetrics, "metrics", false, "print metrics in Prometheus' text format")
	cmd.MarkFlagsMutuallyExclusive("json", "metrics")
	return cmd
}

// unwell returns an error that names the services an operator must look at.
func unwell(s status.Snapshot) error {
	var bad []string
	for _, service := range s.Services {
		if service.State != status.StateOK && service.State != status.StateDegraded {
			bad = append(bad, fmt.Sprintf("%s is %s", service.Address, service.State))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not all is well: %s", strings.Join(bad, ", "))
	}
	return nil
}

func printStatus(out io.Writer, s status.Snapshot) error {
	printable.Fields(&s)
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	fmt.Fprintf(w, "balancer %s\tpid %d, running for %s\n", s.Version, s.PID, s.Now.Sub(s.Started).Round(time.Second))
	tor := "not connected"
	if s.Tor.Connected {
		tor = "connected, version " + s.Tor.Version
	}
	if s.Tor.Error != "" && !s.Tor.Connected {
		tor += ": " + s.Tor.Error
	}
	fmt.Fprintf(w, "tor\t%s (%s)\n", tor, s.Tor.Control)
	if s.Consensus.Known {
		fmt.Fprintf(w, "consensus\tof %s, %d HSDirs, next change at %s\n",
			clock(s.Consensus.ValidAfter), s.Consensus.HSDirs, clock(s.Consensus.NextChange))
	} else {
		fmt.Fprintf(w, "consensus\tnone yet: %s\n", s.Consensus.Error)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "WARNING\t%s\n", warning)
	}
	for _, service := range s.Services {
		printService(w, s.Now, service)
	}
	return w.Flush()
}

func printService(w io.Writer, now time.Time, s status.Service) {
	fmt.Fprintf(w, "\n%s\t%s, strategy %s\n", s.Address, strings.ToUpper(string(s.State)), s.Strategy)
	fmt.Fprintf(w, "  custody: %s\n", custodyText(now, s.Custody))
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "  WARNING\t%s\n", warning)
	}
	fmt.Fprintf(w, "  instance\tstate\tpoints\tpublished\tshare\trenewed\tlast fetch\t\n")
	for _, i := range s.Instances {
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%.0f %%\t%s\t%s\t%s\n", i.Name, i.State, i.IntroductionPoints, i.Published,
			100*i.Share, ago(now, i.Renewed), ago(now, i.LastFetch), i.Error)
		for _, warning := range i.Warnings {
			fmt.Fprintf(w, "    WARNING\t%s\n", warning)
		}
	}
	fmt.Fprintf(w, "  descriptor\tperiod\tpoints\tmade\tbecause\tconfirmed\t\n")
	for _, d := range s.Descriptors {
		mark := ""
		if d.Current {
			mark = "(fetched by clients now)"
		}
		fmt.Fprintf(w, "  %s\t%d\t%d\t%s\t%s\t%d of %d HSDirs\t%s\n",
			d.Which, d.Period, d.Points, ago(now, d.Built), d.Reason, d.Confirmed, len(d.Slots), mark)
		for _, slot := range d.Slots {
			if slot.Error != "" {
				fmt.Fprintf(w, "    %s\t%s\n", slot.HSDir, slot.Error)
			}
		}
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}
