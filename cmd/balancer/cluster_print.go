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
)

// clusterText says in a line how the cluster is.
func clusterText(now time.Time, c status.Cluster) string {
	if c.Standby != nil {
		return c.Name + ": " + standbyText(now, *c.Standby)
	}
	text := fmt.Sprintf("%s: %s, %s (this) owns %d of %d, %s; %s", c.Name, plural(len(c.Members), "manager"), c.Manager, c.Owned, c.Services, plural(c.Orphaned, "orphan"), storeText(c))
	switch {
	case c.Holding > 0:
		text += fmt.Sprintf("; HOLDING %s: the reservation has ended", plural(c.Holding, "service"))
	case !c.Reserved.IsZero():
		text += ", reserved until " + moment(c.Reserved)
	}
	if !c.Joined {
		text += "; NOT IN THE CLUSTER: the others do not see this manager"
	}
	if c.Draining {
		text += "; draining"
	}
	if c.Unfit != "" {
		text += "; unfit: " + c.Unfit
	}
	return text
}

// storeText says how the store is.
func storeText(c status.Cluster) string {
	text := fmt.Sprintf("%s ok (%d ms)", c.Mode, time.Duration(c.Store.Latency*float64(time.Second)).Round(time.Millisecond).Milliseconds())
	if c.Store.Error != "" {
		text = fmt.Sprintf("%s DOES NOT ANSWER: %s", c.Mode, oneLine(c.Store.Error))
	}
	if len(c.Store.Alarms) > 0 {
		text += ", ALARM " + strings.Join(c.Store.Alarms, " ")
	}
	return text
}

// standbyText says in short how two machines stand in for each other.
func standbyText(now time.Time, s status.Standby) string {
	taken, alarms, read := s.Count()
	text := "this is the active machine"
	if s.Role != "active" {
		text = fmt.Sprintf("this machine is on %s: %s", s.Role, watching(s, taken, now, read))
	}
	if alarms > 0 {
		text += fmt.Sprintf(", %s in need of attention", plural(alarms, "service"))
	}
	return text
}

func watching(s status.Standby, taken int, now, read time.Time) string {
	text := plural(len(s.Watched), "service") + " watched"
	if s.Role == "standby" {
		text += fmt.Sprintf(", %d published here", taken)
	}
	if len(s.Watched) > 0 {
		text += ", last read " + ago(now, read)
	}
	switch {
	case s.Heard == nil:
	case *s.Heard:
		text += ", the active machine says it is well"
	case s.Silence == "":
		text += ", the active machine says that it CANNOT PUBLISH"
	default:
		text += ", NO HEARTBEAT of the active machine: " + oneLine(s.Silence)
	}
	return text
}

// neverRead is the age in seconds, of many years, that says of a store that it was not read.
const neverRead = 1e9

// printCluster prints everything about a cluster.
func printCluster(out io.Writer, now time.Time, c status.Cluster) {
	fmt.Fprintf(out, "cluster %s\n", printable.Text(clusterText(now, c)))
	printWarnings(out, c.Warnings)
	if c.Standby != nil {
		printWatched(out, now, *c.Standby)
		return
	}
	s := c.Store
	fmt.Fprintf(out, "  services: %d owned here, %d elsewhere, %d being taken, %s\n", c.Owned, c.Elsewhere, c.Taking(), plural(c.Orphaned, "orphan"))
	if s.Age >= neverRead {
		fmt.Fprint(out, "  store: not read yet")
	} else {
		fmt.Fprintf(out, "  store: %s, at most %s old", plural(s.Records, "record"), seconds(s.Age))
	}
	if s.Bytes > 0 {
		fmt.Fprintf(out, ", %.1f MiB", float64(s.Bytes)/(1<<20))
	}
	if s.Damaged > 0 {
		fmt.Fprintf(out, ", %d that DO NOT OPEN", s.Damaged)
	}
	if s.OldKey > 0 {
		fmt.Fprintf(out, ", %d sealed with the old key", s.OldKey)
	}
	n := c.Counts
	fmt.Fprintf(out, "\n  since the start: %d taken from dead managers, %d that nobody owned, %d of its own again; %d given, %d fenced\n",
		n.Taken.Dead, n.Taken.Free, n.Taken.Restart, n.Given, n.Fenced)
	var g grid
	g.row("  manager\tsince\towns\tstate\tsign of life\tclock\tversion\t")
	for _, m := range c.Members {
		name := m.Name
		if name == c.Manager {
			name += " (this)"
		}
		since := "?"
		if !m.Since.IsZero() {
			since = moment(m.Since)
		}
		g.row("  %s\t%s\t%d\t%s\t%s ago\t%s\t%s\t", printable.Text(name), since, m.Owned, memberState(m), seconds(m.Silent), skewText(m.Skew), printable.Text(m.Version))
		if m.Unfit != "" {
			g.note("    unfit", m.Unfit)
		}
		if max(m.Skew, -m.Skew) > skewTolerable.Seconds() {
			g.note("    WARNING", "its clock and that of this machine differ: set both right, by NTP for instance")
		}
	}
	g.print(out)
	if c.Orphaned > 0 {
		fmt.Fprintf(out, "  orphans: %s\n", printable.Text(strings.Join(c.Orphans, " ")))
		if more := c.Orphaned - len(c.Orphans); more > 0 {
			fmt.Fprintf(out, "    and %d more\n", more)
		}
	}
}

func memberState(m status.Member) string {
	switch {
	case m.Draining:
		return "draining"
	case m.Unfit != "":
		return "unfit"
	}
	return "ok"
}

// skewTolerable is by how much clocks may differ before anybody should look.
const skewTolerable = 2 * time.Minute

// skewText says by how much a clock is ahead of or behind this machine's.
func skewText(skew float64) string {
	d := time.Duration(skew * float64(time.Second)).Round(time.Second)
	switch {
	case d.Abs() < 2*time.Second:
		return "same"
	case d > 0:
		return d.String() + " ahead"
	}
	return d.Abs().String() + " behind"
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

// printWatched prints the public addresses that are watched.
func printWatched(out io.Writer, now time.Time, s status.Standby) {
	if len(s.Watched) == 0 {
		return
	}
	var g grid
	g.row("  service\tpublished by\tmade\tread\ttakes over\t")
	for _, w := range s.Watched {
		by, until := "the active machine", "no"
		if w.Taken {
			by, until = "this machine", "has"
		}
		if !w.Until.IsZero() {
			until = "at " + clock(w.Until) + " if nothing newer is seen"
		}
		g.row("  %s\t%s\t%s\t%s\t%s\t", printable.Text(w.Address), by, made(now, w.Made), ago(now, w.Read), until)
		if w.Why != "" {
			g.note("    since "+clock(w.Since), w.Why)
		}
		if w.Alarm != "" {
			g.note("    ALARM", w.Alarm)
		}
	}
	g.print(out)
}

// ownerText says who publishes a service.
func ownerText(o status.Owner) string {
	switch {
	case o.Term > 0: // else there is no store that counts, or nobody owned it yet
	case o.Owning == status.OwningHere:
		return "this machine, which has taken over from the active one"
	case o.Owning == status.OwningElsewhere:
		return "the active machine"
	}
	by := cmp.Or(o.Manager, "nobody")
	text := map[status.Owning]string{
		status.OwningHere:      by + ", this manager",
		status.OwningElsewhere: by + ", another manager",
		status.OwningTaking:    by + "; a manager takes it in a moment",
		status.OwningOrphan:    by + "; it is an ORPHAN: no live manager can certify it",
		status.OwningHolding:   by + ", this manager, which is HOLDING: it leaves what is published as it is, since its reservation has ended",
		status.OwningDamaged:   "not known: the record of it DOES NOT OPEN",
	}[o.Owning]
	return fmt.Sprintf("%s (term %d)", cmp.Or(text, string(o.Owning), "not known yet"), o.Term)
}

// ownersText counts customers by the managers that publish them.
func ownersText(owners map[string]int) string {
	var parts []string
	for _, manager := range slices.Sorted(maps.Keys(owners)) {
		if manager != "" {
			parts = append(parts, fmt.Sprintf("%s %d", manager, owners[manager]))
		}
	}
	if n := owners[""]; n > 0 {
		parts = append(parts, fmt.Sprintf("nobody %d", n))
	}
	return strings.Join(parts, ", ")
}

// unwellCluster lists what is wrong with a cluster; nil is none.
func unwellCluster(c *status.Cluster) (bad []string) {
	if c == nil {
		return nil
	}
	if c.Standby != nil {
		for _, w := range c.Standby.Watched {
			if w.Alarm != "" {
				bad = append(bad, fmt.Sprintf("%s: %s", printable.Text(w.Address), oneLine(w.Alarm)))
			}
		}
		if heard := c.Standby.Heard; heard != nil && !*heard {
			bad = append(bad, "the active machine does not say that it can publish")
		}
		return bad
	}
	if !c.Joined {
		bad = append(bad, "this manager is not in the cluster")
	}
	if c.Store.Error != "" {
		bad = append(bad, "the cluster's store does not answer")
	}
	if len(c.Store.Alarms) > 0 {
		bad = append(bad, "the cluster's store raised "+printable.Text(strings.Join(c.Store.Alarms, ", ")))
	}
	if c.Orphaned > 0 {
		bad = append(bad, plural(c.Orphaned, "service")+" that no live manager can certify")
	}
	if c.Holding > 0 {
		bad = append(bad, plural(c.Holding, "service")+" held, as the reservation has ended")
	}
	return bad
}
