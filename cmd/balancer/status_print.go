package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"onionbalancer/internal/config"
	"onionbalancer/internal/health"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
)

// printStatus prints a snapshot for people. Much of it is untrusted text: from tor
// and HSDirs, and from a socket that a stranger may have put there.
func printStatus(out io.Writer, s status.Snapshot) {
	table(func(w io.Writer) { printDaemon(w, s) })(out)
	printShards(out, s.Now, s.Shards)
	for _, service := range s.Services {
		printService(out, s.Now, service)
	}
}

// printDaemon prints what is about the daemon as a whole.
func printDaemon(w io.Writer, s status.Snapshot) {
	if refused := s.Refused(); refused != nil {
		warn(w, "REFUSED", fmt.Sprintf("at %s the configuration was not taken over, the old one stays in force:\n%s", clock(refused.At), refused.Error))
	}
	fmt.Fprintf(w, "balancer %s\tpid %d, running for %s\n", printable.Text(s.Version), s.PID, s.Now.Sub(s.Started).Round(time.Second))
	fmt.Fprintf(w, "configuration\t%s, in force since %s\n", printable.Text(s.Config), clock(s.Loaded))
	for _, t := range s.Tors {
		fmt.Fprintf(w, "tor\t%s (%s)\n", printable.Text(torText(t)), printable.Text(t.Control))
	}
	if s.Consensus.Known {
		fmt.Fprintf(w, "consensus\tof %s, %d HSDirs, next change at %s\n",
			clock(s.Consensus.ValidAfter), s.Consensus.HSDirs, clock(s.Consensus.NextChange))
	} else {
		fmt.Fprintf(w, "consensus\tnone yet: %s\n", printable.Text(s.Consensus.Error))
	}
	if s.Cluster != nil {
		fmt.Fprintf(w, "cluster\t%s\n", printable.Text(clusterText(s.Now, *s.Cluster)))
		for _, warning := range s.Cluster.Warnings {
			warn(w, "WARNING", warning)
		}
	}
	for _, warning := range s.Warnings {
		warn(w, "WARNING", warning)
	}
}

// torText says whether a tor is connected, and whether it serves.
func torText(t status.Tor) string {
	text := "not connected"
	switch {
	case t.Connected:
		text = "connected, version " + t.Version
	case t.Error != "":
		text += ": " + t.Error
	}
	if !t.Serving {
		text += "; its services moved to the others"
	}
	return text
}

func printService(out io.Writer, now time.Time, s status.Service) {
	profile := ""
	if s.Profile == config.ProfileOrdinary {
		profile = ", profile " + s.Profile
	}
	fmt.Fprintf(out, "\n%s  %s, strategy %s%s\n", printable.Text(s.Address), printable.Text(strings.ToUpper(string(s.State))), printable.Text(s.Strategy), profile)
	if s.Owner != nil {
		fmt.Fprintf(out, "  owner: %s\n", printable.Text(ownerText(*s.Owner)))
	}
	fmt.Fprintf(out, "  custody: %s\n", printable.Text(custodyText(now, s.Custody)))
	if s.Clients > 0 {
		fmt.Fprintf(out, "  clients: %d authorized, and nobody else\n", s.Clients)
	}
	if !s.ReadBack.IsZero() {
		fmt.Fprintf(out, "  read back: clients got the published descriptor %s\n", ago(now, s.ReadBack))
	}
	if !s.Visited.IsZero() {
		fmt.Fprintf(out, "  visited: the public address answered %s\n", ago(now, s.Visited))
	}
	printWarnings(out, s.Warnings)
	printInstances(out, now, s.Instances)
	var g grid
	g.row("  descriptor\tperiod\tpoints\tmade\tbecause\tconfirmed\t")
	for _, d := range s.Descriptors {
		mark := ""
		if d.Current {
			mark = "(fetched by clients now)"
		}
		g.row("  %s\t%d\t%d\t%s\t%s\t%d of %d HSDirs\t%s", printable.Text(d.Which), d.Period, d.Points,
			ago(now, d.Built), printable.Text(d.Reason), d.Confirmed, len(d.Slots), mark)
		for _, slot := range d.Slots {
			if slot.Error != "" {
				g.note("    "+printable.Text(slot.HSDir), slot.Error)
			}
		}
	}
	g.print(out)
}

func printWarnings(out io.Writer, warnings []string) {
	table(func(w io.Writer) {
		for _, warning := range warnings {
			warn(w, "  WARNING", warning)
		}
	})(out)
}

func printInstances(out io.Writer, now time.Time, instances []status.Instance) {
	var g grid
	g.row("  instance\tstate\tpoints\tpublished\tshare\tcheck\trenewed\tlast fetch\t")
	for _, i := range instances {
		g.row("  %s\t%s\t%d\t%d\t%.0f %%\t%s\t%s\t%s\t", printable.Text(i.Name), printable.Text(instanceState(i)),
			i.IntroductionPoints, i.Published, 100*i.Share, printable.Text(checkText(now, i.Check)), renewed(now, i), ago(now, i.LastFetch))
		if i.Error != "" {
			g.note("    fetch", i.Error)
		}
		if c := i.Check; c != nil && c.Error != "" {
			g.note("    check", c.Error)
		}
		if i.Drain != nil {
			g.note("    "+printable.Text(i.Admin), drainText(now, i.Drain))
		}
		for _, warning := range i.Warnings {
			g.note("    WARNING", warning)
		}
	}
	g.print(out)
}

// custodyText says who keeps the keys, and how long that lasts.
func custodyText(now time.Time, c status.Custody) string {
	text := keystore.Form(c.Form).String() + map[string]string{
		"memory": ", signing keys in memory",
		"disk":   ", signing keys on disk",
		"token":  ", signing keys on a token",
	}[c.Signing]
	switch a := c.Ahead; {
	case a == nil && c.CertifiedUntil.IsZero():
		return text + "; no certificate yet"
	case a == nil:
		return text + "; certified until " + moment(c.CertifiedUntil)
	case a.Periods == 0 && a.DarkAt.IsZero():
		return text + "; NO CERTIFICATE for the present period"
	case a.Periods == 0:
		return text + "; the certificates ENDED at " + moment(a.DarkAt)
	default:
		text = fmt.Sprintf("%s; %s left of %d, until %s (in %s); renew before %s", text, plural(a.Periods, "period"), a.Horizon,
			moment(a.DarkAt), roughly(a.DarkAt.Sub(now)), moment(a.RenewBy))
	}
	if c.SameExpiry {
		text += "; HSDirs see a certificate whose expiry stays the same, of an earlier version: the next ceremony ends that"
	}
	return text
}

// roughly writes a duration in the unit that fits.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return plural(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return plural(int(d/time.Hour), "hour")
	}
	return plural(int(d/time.Minute), "minute")
}

// checkText is what the checks of an instance found: its operating state with
// how long the last check took, or since when it is not up.
func checkText(now time.Time, c *status.Check) string {
	switch {
	case c == nil:
		return "none"
	case c.At.IsZero():
		return "not yet"
	case c.Doubt:
		return "panic: our own tor?"
	case c.Operating == string(health.Up):
		return fmt.Sprintf("up, %.1f s", c.Seconds)
	case !c.Held.IsZero():
		return "up, out for " + roughly(c.Held.Sub(now)+time.Minute-1) + " more"
	}
	return c.Operating + " since " + ago(now, c.Since)
}

// instanceState is an instance's state with what the operator said about it.
func instanceState(i status.Instance) string {
	text := string(i.State)
	if i.Drain != nil && i.Admin != "" {
		text += ", " + i.Admin
	}
	if i.Said != nil && i.Said.Weight != health.DefaultWeight {
		text += ", weight " + i.Said.Weight
	}
	if i.Load != nil {
		text += ", load " + number(i.Load.Value)
	}
	return text
}

// number writes a number as people do.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// warn prints a text of one or more lines beside what.
func warn(w io.Writer, what, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(w, "%s\t%s\n", what, printable.Text(line))
		what = strings.Repeat(" ", len(what))
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// renewed says when an instance published last, as well as that is known.
func renewed(now time.Time, i status.Instance) string {
	// Rounded up: it was not later than that.
	switch at := i.Renewed.Add(time.Minute - 1).Truncate(time.Minute).UTC(); {
	case !i.RenewedBefore:
		return ago(now, i.Renewed)
	case now.Sub(at) < 24*time.Hour:
		return at.Format("before 15:04 UTC")
	default:
		return "before " + moment(at)
	}
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}
