package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/config"
	"onionbalancer/internal/health"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/socket"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
)

func newStatusCommand() *cobra.Command {
	var path, socket string
	var asJSON, asMetrics bool
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Show what the running balancer is doing",
		Long: `Show what the running balancer is doing: its tor, the consensus, and for each
service the custody of its keys and how long it lasts, its instances, its
published descriptors and how many HSDirs confirmed them. The answer comes over
a unix socket in state_dir, which only the balancer's user and root can open. It
names the configuration in force, and says whether a newer one was refused.

"ok" means that an instance's descriptor is fresh and that its health checks pass; the
column "check" says what they found. With [check] kind = "tcp" a web server that
answers only errors passes, with "http" it does not.

The exit status is 0 if all is in force as configured and every service is "ok" or
"degraded": visitors are served. It is 1 if a service is "starting" or "failed" or
was left out, if the last reload was refused, if tor's control port is lost, or if
no balancer answers. With --metrics it is 0 if there was an answer.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, broken, err := statusSocket(path, socket)
			if err != nil {
				return err
			}
			if asMetrics {
				return asked(status.Metrics(cmd.Context(), socket, cmd.OutOrStdout()), broken)
			}
			snapshot, err := status.Query(cmd.Context(), socket)
			if err != nil {
				return asked(err, broken)
			}
			if broken != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: the configuration cannot be read as it is now, and would be refused:\n%s\n", printable.Lines(broken.Error()))
			}
			if err := show(cmd, asJSON, snapshot, table(func(w io.Writer) { printStatus(w, snapshot) })); err != nil {
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

// statusSocket returns the socket to ask at: the one that is named, or the one
// that the configuration implies. The daemon is needed most when the file is
// broken, so that is not an error; broken then has the error.
func statusSocket(path, named string) (socket string, broken, err error) {
	if named != "" {
		return named, nil, nil
	}
	dir, broken, err := stateDir(path)
	return filepath.Join(dir, status.SocketName), broken, err
}

// asked adds advice to err if there was no answer.
func asked(err, broken error) error {
	if forbidden := (*socket.ForbiddenError)(nil); errors.As(err, &forbidden) && forbidden.User != "" {
		err = fmt.Errorf("%w; run: runuser -u %s -- %s", err, shell.Quote(forbidden.User), commandLine())
	}
	if err != nil && broken != nil {
		err = fmt.Errorf("%w\n(guessed from a configuration that cannot be read; --socket PATH names another: %w)", err, broken)
	}
	return err
}

// commandLine is the typed command, to be typed again.
func commandLine() string {
	words := make([]string, len(os.Args))
	for i, word := range os.Args {
		words[i] = shell.Quote(word)
	}
	return strings.Join(words, " ")
}

// unwell returns an error that names problems for an operator.
func unwell(s status.Snapshot) error {
	var bad []string
	if refused := s.Refused(); refused != nil {
		bad = append(bad, "the configuration was refused at "+clock(refused.At))
	}
	if !s.Connected() {
		bad = append(bad, "tor's control port is lost")
	}
	if s.LeftOut > 0 {
		bad = append(bad, plural(s.LeftOut, "service")+" left out")
	}
	for _, service := range s.Services {
		if service.State != status.StateOK && service.State != status.StateDegraded {
			bad = append(bad, fmt.Sprintf("%s is %s", printable.Text(service.Address), printable.Text(string(service.State))))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not all is well: %s", strings.Join(bad, ", "))
	}
	return nil
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

// printStatus prints a snapshot for people. Much of it is untrusted text: from tor
// and HSDirs, and from a socket that a stranger may have put there.
func printStatus(w io.Writer, s status.Snapshot) {
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
	for _, warning := range s.Warnings {
		warn(w, "WARNING", warning)
	}
	for _, service := range s.Services {
		printService(w, s.Now, service)
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

func printService(w io.Writer, now time.Time, s status.Service) {
	profile := ""
	if s.Profile == config.ProfileOrdinary {
		profile = ", profile " + s.Profile
	}
	fmt.Fprintf(w, "\n%s\t%s, strategy %s%s\n", printable.Text(s.Address), printable.Text(strings.ToUpper(string(s.State))), printable.Text(s.Strategy), profile)
	fmt.Fprintf(w, "  custody: %s\n", printable.Text(custodyText(now, s.Custody)))
	if s.Clients > 0 {
		fmt.Fprintf(w, "  clients: %d authorized, and nobody else\n", s.Clients)
	}
	if !s.ReadBack.IsZero() {
		fmt.Fprintf(w, "  read back: clients got the published descriptor %s\n", ago(now, s.ReadBack))
	}
	if !s.Visited.IsZero() {
		fmt.Fprintf(w, "  visited: the public address answered %s\n", ago(now, s.Visited))
	}
	for _, warning := range s.Warnings {
		warn(w, "  WARNING", warning)
	}
	fmt.Fprintf(w, "  instance\tstate\tpoints\tpublished\tshare\tcheck\trenewed\tlast fetch\t\n")
	for _, i := range s.Instances {
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%.0f %%\t%s\t%s\t%s\t%s\n", printable.Text(i.Name), printable.Text(instanceState(i)),
			i.IntroductionPoints, i.Published, 100*i.Share, printable.Text(checkText(now, i.Check)), renewed(now, i), ago(now, i.LastFetch), printable.Text(i.Error))
		if c := i.Check; c != nil && c.Error != "" {
			fmt.Fprintf(w, "    check\t%s\n", printable.Text(c.Error))
		}
		if i.Drain != nil {
			fmt.Fprintf(w, "    %s\t%s\n", printable.Text(i.Admin), drainText(now, i.Drain))
		}
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
