package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
)

// printStatus prints a snapshot for people. Much of it is others' text: what tor
// and HSDirs said, and a socket that a stranger may have put there.
func printStatus(out io.Writer, s status.Snapshot) error {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	if refused := s.Refused(); refused != nil {
		warn(w, "REFUSED", fmt.Sprintf("at %s the configuration was not taken over, the old one stays in force:\n%s", clock(refused.At), refused.Error))
	}
	fmt.Fprintf(w, "balancer %s\tpid %d, running for %s\n", printable.Text(s.Version), s.PID, s.Now.Sub(s.Started).Round(time.Second))
	fmt.Fprintf(w, "configuration\t%s, in force since %s\n", printable.Text(s.Config), clock(s.Loaded))
	tor := "not connected"
	if s.Tor.Connected {
		tor = "connected, version " + s.Tor.Version
	}
	if s.Tor.Error != "" && !s.Tor.Connected {
		tor += ": " + s.Tor.Error
	}
	fmt.Fprintf(w, "tor\t%s (%s)\n", printable.Text(tor), printable.Text(s.Tor.Control))
	if s.Consensus.Known {
		fmt.Fprintf(w, "consensus\tof %s, %d HSDirs, next change at %s\n",
			clock(s.Consensus.ValidAfter), s.Consensus.HSDirs, clock(s.Consensus.NextChange))
	} else {
		fmt.Fprintf(w, "consensus\tnone yet: %s\n", printable.Text(s.Consensus.Error))
	}
	for _, warning := range s.Warnings {
		warn(w, "WARNING", warning)
	}
	for _, service := range s.Services {
		printService(w, s.Now, service)
	}
	return w.Flush()
}

func printService(w io.Writer, now time.Time, s status.Service) {
	fmt.Fprintf(w, "\n%s\t%s, strategy %s\n", printable.Text(s.Address), printable.Text(strings.ToUpper(string(s.State))), printable.Text(s.Strategy))
	fmt.Fprintf(w, "  custody: %s\n", printable.Text(custodyText(now, s.Custody)))
	if !s.ReadBack.IsZero() {
		fmt.Fprintf(w, "  read back: clients got what is published %s\n", ago(now, s.ReadBack))
	}
	for _, warning := range s.Warnings {
		warn(w, "  WARNING", warning)
	}
	fmt.Fprintf(w, "  instance\tstate\tpoints\tpublished\tshare\trenewed\tlast fetch\t\n")
	for _, i := range s.Instances {
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%.0f %%\t%s\t%s\t%s\n", printable.Text(i.Name), printable.Text(string(i.State)),
			i.IntroductionPoints, i.Published, 100*i.Share, renewed(now, i), ago(now, i.LastFetch), printable.Text(i.Error))
		for _, warning := range i.Warnings {
			warn(w, "    WARNING", warning)
		}
	}
	fmt.Fprintf(w, "  descriptor\tperiod\tpoints\tmade\tbecause\tconfirmed\t\n")
	for _, d := range s.Descriptors {
		mark := ""
		if d.Current {
			mark = "(fetched by clients now)"
		}
		fmt.Fprintf(w, "  %s\t%d\t%d\t%s\t%s\t%d of %d HSDirs\t%s\n", printable.Text(d.Which), d.Period, d.Points,
			ago(now, d.Built), printable.Text(d.Reason), d.Confirmed, len(d.Slots), mark)
		for _, slot := range d.Slots {
			if slot.Error != "" {
				fmt.Fprintf(w, "    %s\t%s\n", printable.Text(slot.HSDir), printable.Text(slot.Error))
			}
		}
	}
}

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
