package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
)

// printShards prints a line for each shard, and what needs attention below it.
func printShards(out io.Writer, now time.Time, shards []status.Shard) {
	if len(shards) == 0 {
		return
	}
	fmt.Fprintln(out)
	var g grid
	g.row("shard\tstate\tcustomers\tok\tdegraded\tstarting\tfailed\tspares\toldest descriptor\tinstances\t")
	for _, s := range shards {
		c := s.Customers
		g.row("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t", printable.Text(s.Name), printable.Text(strings.ToUpper(string(s.State))),
			c.Active, c.OK, c.Degraded, c.Starting, c.Failed, s.Spares, made(now, s.Oldest), printable.Text(instancesText(s.Instances)))
		if s.Owners != nil {
			g.note("  owners", ownersText(s.Owners))
		}
		for _, warning := range s.Warnings {
			g.note("  WARNING", warning)
		}
		for _, a := range s.Attention {
			g.note("  "+printable.Text(a.Customer), attentionText(a))
		}
		if more := s.Needy - len(s.Attention); more > 0 {
			g.note("  and", fmt.Sprintf("%d more", more))
		}
	}
	g.print(out)
}

// printShard prints everything about one shard.
func printShard(out io.Writer, now time.Time, s status.Shard) {
	c := s.Customers
	fmt.Fprintf(out, "shard %s  %s, strategy %s\n", printable.Text(s.Name), printable.Text(strings.ToUpper(string(s.State))), printable.Text(s.Strategy))
	fmt.Fprintf(out, "  customers: %d active (%d ok, %d degraded, %d starting, %d failed), %d suspended, %d removed", c.Active, c.OK, c.Degraded, c.Starting, c.Failed, c.Suspended, c.Removed)
	if c.Withdrawing > 0 {
		fmt.Fprintf(out, "; %d being withdrawn", c.Withdrawing)
	}
	if s.Owners != nil {
		fmt.Fprintf(out, "\n  owners: %s", printable.Text(ownersText(s.Owners)))
	}
	fmt.Fprintf(out, "\n  keys: %s, %d pending; the instances know %d addresses\n", plural(s.Spares, "spare"), s.Pending, s.Lines-s.Pending)
	fmt.Fprintf(out, "  custody: %s\n", printable.Text(sharedCustodyText(now, s.Custody)))
	fmt.Fprintf(out, "  oldest descriptor: %s\n", made(now, s.Oldest))
	if s.Unconfirmed > 0 {
		fmt.Fprintf(out, "  uploads: %s of clients' HSDirs not confirmed yet\n", plural(s.Unconfirmed, "upload"))
	}
	printWarnings(out, s.Warnings)
	printInstances(out, now, s.Instances)
	if s.Needy == 0 {
		return
	}
	fmt.Fprintf(out, "  %s in need of attention\n", plural(s.Needy, "customer"))
	for _, a := range s.Attention {
		fmt.Fprintf(out, "    %s  %s\n", printable.Text(a.Customer), printable.Text(attentionText(a)))
	}
}

// printCustomer prints everything about one customer.
func printCustomer(out io.Writer, now time.Time, c status.Customer) {
	fmt.Fprintf(out, "customer %s of shard %s\n", printable.Text(c.Name), printable.Text(c.Shard))
	if !c.Since.IsZero() {
		fmt.Fprintf(out, "  %s since %s\n", printable.Text(c.Hosted), clock(c.Since))
	}
	if c.Error != "" {
		fmt.Fprintf(out, "  left out: %s\n", oneLine(c.Error))
	}
	if c.Service == nil {
		fmt.Fprintf(out, "  nothing is published of %s\n", printable.Text(c.Address))
		return
	}
	printService(out, now, *c.Service)
}

// unwellShards lists shards and customers that are not served.
func unwellShards(shards []status.Shard) (bad []string) {
	for _, s := range shards {
		switch {
		case !served(s.State):
			bad = append(bad, fmt.Sprintf("shard %s is %s", printable.Text(s.Name), printable.Text(string(s.State))))
		case s.Customers.Failed > 0:
			bad = append(bad, fmt.Sprintf("%s of shard %s failed", plural(s.Customers.Failed, "customer"), printable.Text(s.Name)))
		}
	}
	return bad
}

// unwellCustomer returns an error if a customer is not served who should be.
func unwellCustomer(c status.Customer) error {
	switch s := c.Service; {
	case c.Hosted != "active", s != nil && served(s.State):
		return nil
	case s == nil:
		return fmt.Errorf("not all is well: nothing is published of %s", printable.Text(c.Address))
	default:
		return fmt.Errorf("not all is well: %s is %s", printable.Text(c.Name), printable.Text(string(s.State)))
	}
}

// made says when the oldest descriptor was made.
func made(now, t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return ago(now, t)
}

// attentionText says why a customer needs attention, in one line.
func attentionText(a status.Attention) string {
	return fmt.Sprintf("is %s: %s", a.State, oneLine(a.Text))
}

// instancesText counts instances by their states, and names those that are not ok.
func instancesText(instances []status.Instance) string {
	well := 0
	var parts []string
	for _, i := range instances {
		if state := instanceState(i); state == string(status.StateOK) {
			well++
		} else {
			parts = append(parts, i.Name+" "+state)
		}
	}
	return strings.Join(append([]string{fmt.Sprintf("%d of %d ok", well, len(instances))}, parts...), "; ")
}

// sharedCustodyText says who keeps the keys of a shard's customers, and how long that lasts.
func sharedCustodyText(now time.Time, c status.SharedCustody) string {
	var parts []string
	for _, form := range slices.SortedFunc(maps.Keys(c.Forms), func(a, b string) int { return cmp.Or(c.Forms[b]-c.Forms[a], strings.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%d with %s", c.Forms[form], keystore.Form(form)))
	}
	text := cmp.Or(strings.Join(parts, ", "), "no customers")
	if !c.CertifiedUntil.IsZero() {
		text += "; certified until " + moment(c.CertifiedUntil) + " at least"
	}
	if a := c.Ahead; a != nil {
		text += fmt.Sprintf("; %s has %s left, until %s (in %s); renew before %s", c.Customer, plural(a.Periods, "period"), moment(a.DarkAt), roughly(a.DarkAt.Sub(now)), moment(a.RenewBy))
	}
	return text
}
