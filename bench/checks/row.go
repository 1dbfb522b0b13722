package main

import (
	"fmt"
	"io"
	"time"
)

// counts is what a balancer and its tor have taken and done so far.
type counts struct {
	at        time.Time
	processor [2]time.Duration // balancer, its tor
	traffic   uint64           // of the tor, in bytes, both ways
	circuits  uint64           // that the tor began
	checks    uint64
	failed    uint64 // of these
}

// row is what one way of checking takes.
type row struct {
	Name   string `json:"name"`
	Config string `json:"config"`

	Balancer float64 `json:"balancer_share_of_core"`
	Tor      float64 `json:"tor_share_of_core"`
	// Of the checks alone.
	BalancerChecks float64 `json:"balancer_share_of_core_for_checks"`
	TorChecks      float64 `json:"tor_share_of_core_for_checks"`
	Checks         float64 `json:"checks_per_instance_hour"`
	Failed         float64 `json:"failed_checks_per_instance_hour"`
	Circuits       float64 `json:"circuits_per_instance_hour"`
	Bytes          float64 `json:"tor_bytes_per_instance_hour"` // both ways
}

// newRow compares a balancer with the one that does not check.
func newRow(w way, before, after, idleBefore, idleAfter counts) row {
	long, idle := after.at.Sub(before.at), idleAfter.at.Sub(idleBefore.at)
	share := func(process int) (all, checks float64) {
		all = float64(after.processor[process]-before.processor[process]) / float64(long)
		return all, all - float64(idleAfter.processor[process]-idleBefore.processor[process])/float64(idle)
	}
	// hourly is for each instance. The differences are of counters that grow.
	hourly := func(what func(counts) uint64) float64 {
		more := float64(what(after)-what(before))/long.Hours() - float64(what(idleAfter)-what(idleBefore))/idle.Hours()
		return more / instances
	}
	r := row{Name: w.name, Config: w.config}
	r.Balancer, r.BalancerChecks = share(0)
	r.Tor, r.TorChecks = share(1)
	r.Checks = hourly(func(c counts) uint64 { return c.checks })
	r.Failed = hourly(func(c counts) uint64 { return c.failed })
	r.Circuits = hourly(func(c counts) uint64 { return c.circuits })
	r.Bytes = hourly(func(c counts) uint64 { return c.traffic })
	return r
}

// printTable writes Markdown.
func printTable(out io.Writer, rows []row) {
	fmt.Fprintln(out, "| checks | balancer, of one core | its tor, of one core | for each instance and hour: checks | of which fail | circuits | traffic of tor, both ways |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Fprintf(out, "| %s | %.2f %% (%.2f %%) | %.2f %% (%.2f %%) | %.0f | %.1f | %.0f | %.0f KiB |\n", r.Name,
			100*r.Balancer, 100*r.BalancerChecks, 100*r.Tor, 100*r.TorChecks, r.Checks, r.Failed, r.Circuits, r.Bytes/1024)
	}
}
