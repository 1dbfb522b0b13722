package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"onionbalancer/internal/printable"
)

// printLab prints a state for people or for programs.
func printLab(cmd *cobra.Command, s *labState, asJSON bool) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), s)
	}
	return s.print(cmd.OutOrStdout())
}

func (s *labState) print(out io.Writer) error {
	printable.Fields(s)
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	fmt.Fprintf(w, "network\t%s", s.State)
	switch s.State {
	case "starting":
		fmt.Fprintf(w, ": %s\n", s.Progress)
		return w.Flush()
	case "down":
		fmt.Fprintln(w)
		return w.Flush()
	}
	fmt.Fprintf(w, ", pid %d, %d authorities and %d relays, a consensus every %g s\n", s.PID, s.Authorities, s.Relays, s.VotingInterval)
	fmt.Fprintf(w, "directory\t%s\n", s.Dir)
	fmt.Fprintf(w, "client\tSOCKS port %s\n", s.Socks)
	fmt.Fprintf(w, "manager\tcontrol port %s\n", s.Control)
	if c := s.Consensus; c != nil {
		fmt.Fprintf(w, "consensus\tof %s, %d relays\n", clock(c.ValidAfter), c.Relays)
		fmt.Fprintf(w, "next\tperiod at %s, shared random value at %s\n", clock(c.NextPeriod), clock(c.NextSharedRandom))
	}
	fmt.Fprintf(w, "public\t%s\n", s.Address)
	for _, i := range s.Instances {
		fmt.Fprintf(w, "%s\t%s, pid %d\n", i.Name, i.Address, i.PID)
	}
	for _, i := range s.Services {
		fmt.Fprintf(w, "%s\t%s, pid %d, an ordinary service\n", i.Name, i.Address, i.PID)
	}
	fmt.Fprintf(w, "\nbalancer run --config %s\n", s.Config)
	return w.Flush()
}
