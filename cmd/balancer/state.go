package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/state"
)

func newStateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Look at the balancer's stored state",
		Long: `Look at the state that the balancer keeps between two runs, in state.db in state_dir.

None of it is configuration. The keys of probe addresses are secrets, and never
shown; if they are lost, the lines for them in ob_config are others. Of all else the
balancer starts again from the network.`,
	}
	addCommands(cmd, newStateShowCommand())
	return cmd
}

func newStateShowCommand() *cobra.Command {
	var path, only string
	var asJSON bool
	var events int
	cmd := &cobra.Command{
		Use:   "show --config FILE",
		Short: "Show the state that the balancer keeps between two runs",
		Long: `Show the state that the balancer keeps between two runs: for each service and period
the highest revision counter that it may have used, and what it published last; for
each instance the last good descriptor, and what the operator said about it by "balancer
drain" and its like; the customers of each shard (--json lists them); for each period which instance was first
seen with which keys of introduction points; and the last events.

An HSDir refuses a descriptor whose revision counter is not above that of the one
it holds, so the balancer starts above the stored counter. If that is lost, it
follows the clock, and may be refused until it has passed the old one.

It reads the file and changes nothing, whether or not a balancer is running. To see
the current state of a running balancer, use "balancer status".`,
		Example: `  balancer state show --config /etc/balancer/balancer.toml
  balancer state show --config /etc/balancer/balancer.toml --service ADDRESS --json
  balancer state show --config /etc/balancer/balancer.toml --events 1000`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var service *descriptor.Address
			if only != "" {
				a, err := descriptor.ParseAddress(only)
				if err != nil {
					return usageError{fmt.Errorf("--service: %w", err)}
				}
				service = &a
			}
			dir, _, err := stateDir(path)
			if err != nil {
				return err
			}
			v, err := readState(dir, service, events, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			return show(cmd, asJSON, v, table(v.print))
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringVar(&only, "service", "", "show the service of this `ADDRESS` alone")
	cmd.Flags().IntVar(&events, "events", 20, "show the last `NUMBER` events")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON, for programs")
	return cmd
}

// stateView is what "balancer state show" prints.
type stateView struct {
	Services  []serviceRecord    `json:"services"`
	Instances []instanceRecord   `json:"instances,omitempty"`
	Words     []wordRecord       `json:"operator,omitempty"`
	Customers []hosting.Customer `json:"customers,omitempty"`
	Keys      []keysRecord       `json:"introduction_keys,omitempty"`
	Events    []event.Stored     `json:"events,omitempty"` // oldest first
}

type serviceRecord struct {
	Address descriptor.Address `json:"address"`
	Version uint64             `json:"version"`
	state.Service
}

type instanceRecord struct {
	Address descriptor.Address `json:"address"`
	Version uint64             `json:"version"`
	state.Instance
}

type wordRecord struct {
	Address descriptor.Address `json:"address"`
	Version uint64             `json:"version"`
	state.Word
}

type keysRecord struct {
	Period  uint64 `json:"period"`
	Minutes uint64 `json:"period_length_minutes"`
	Version uint64 `json:"version"`
	state.Claims
}

// readState reads the records and the last events in dir: all, or those of one
// service.
func readState(dir string, service *descriptor.Address, events int, log *slog.Logger) (*stateView, error) {
	db, err := state.OpenReadOnly(dir, log)
	if err != nil {
		return nil, err
	}
	v := &stateView{Services: []serviceRecord{}}
	if err := v.readEvents(db, service, events); err != nil {
		return nil, err
	}
	if service != nil {
		record, version, err := db.Service(*service)
		if err == nil && version == 0 {
			err = fmt.Errorf("nothing is stored for %s in %s; \"balancer state show\" without --service shows everything", service, dir)
		}
		v.Services = append(v.Services, serviceRecord{*service, version, record})
		return v, err
	}
	services, err := db.Services()
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		v.Services = append(v.Services, serviceRecord{s.Address, s.Version, s.Record})
	}
	instances, err := db.Instances()
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		v.Instances = append(v.Instances, instanceRecord{i.Address, i.Version, i.Record})
	}
	words, err := db.Words()
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		if w.Record.Says() {
			v.Words = append(v.Words, wordRecord{w.Address, w.Version, w.Record})
		}
	}
	if v.Customers, err = hosting.Customers(db); err != nil {
		return nil, err
	}
	claims, err := db.AllClaims()
	for _, c := range claims {
		v.Keys = append(v.Keys, keysRecord{c.Period.Number, c.Period.Minutes(), c.Version, c.Record})
	}
	return v, err
}

// readEvents reads the last events: all, or those of one service.
func (v *stateView) readEvents(db *state.DB, service *descriptor.Address, n int) error {
	decode := func(raw []byte) (e event.Stored, err error) { return e, json.Unmarshal(raw, &e) }
	list, err := db.Events(n, func(raw []byte) bool {
		e, err := decode(raw)
		return service == nil || err == nil && e.Service == service.String()
	})
	if err != nil {
		return err
	}
	for _, raw := range list {
		e, err := decode(raw)
		if err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		v.Events = append(v.Events, e)
	}
	return nil
}

func (v *stateView) print(w io.Writer) {
	for n, s := range v.Services {
		if n > 0 {
			fmt.Fprintln(w)
		}
		s.print(w)
	}
	if len(v.Instances) > 0 {
		fmt.Fprintf(w, "\ninstance\tperiod\trevision counter\trenewed\tpoints\t\n")
	}
	for _, i := range v.Instances {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%d\t\n", i.Address, i.Period, i.Revision, stored(i.Renewed), len(i.Points))
	}
	if len(v.Words) > 0 {
		fmt.Fprintf(w, "\ninstance\tthe operator said\tweight\tsince\t\n")
	}
	for _, o := range v.Words {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", o.Address, printable.Text(string(cmp.Or(o.Admin, health.Ready))), o.Weight, stored(o.Since))
	}
	v.printCustomers(w)
	if len(v.Keys) > 0 {
		fmt.Fprintf(w, "\nkeys of period\tkeys\tof several instances\t\n")
	}
	for _, k := range v.Keys {
		several := 0
		for _, instances := range k.Keys {
			if len(instances) > 1 {
				several++
			}
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t\n", k.Period, len(k.Keys), several)
	}
	if len(v.Events) > 0 {
		fmt.Fprintf(w, "\nwhat happened last\n")
	}
	for _, e := range v.Events {
		text := e.Text
		for _, key := range slices.Sorted(maps.Keys(e.Attrs)) {
			text += fmt.Sprintf("  %s=%v", key, e.Attrs[key])
		}
		service, _, _ := strings.Cut(e.Service, ".")
		fmt.Fprintf(w, "%s  %s  %s  %s\n", stored(e.At), e.Level, printable.Text(service[:min(8, len(service))]), printable.Text(text))
	}
}

// printCustomers counts the customers of each shard: there may be thousands.
func (v *stateView) printCustomers(w io.Writer) {
	counts := map[string]map[hosting.State]int{}
	for _, c := range v.Customers {
		if counts[c.Shard] == nil {
			counts[c.Shard] = map[hosting.State]int{}
		}
		counts[c.Shard][c.State]++
	}
	if len(counts) > 0 {
		fmt.Fprintf(w, "\ncustomers of the shard\tactive\tsuspended\tremoved\t\n")
	}
	for _, shard := range slices.Sorted(maps.Keys(counts)) {
		n := counts[shard]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t\n", printable.Text(shard), n[hosting.Active], n[hosting.Suspended], n[hosting.Removed])
	}
}

func (s serviceRecord) print(w io.Writer) {
	fmt.Fprintf(w, "service %s\n", s.Address)
	if s.Owner != "" {
		fmt.Fprintf(w, "  owner %s, term %d\n", printable.Text(s.Owner), s.Term)
	}
	fmt.Fprintf(w, "  %d introduction points published\n", len(s.Points))
	fmt.Fprintf(w, "  period\tcounter up to\tmade\trevision counter\tdue\tconfirmed\t\n")
	for _, c := range s.Ceilings {
		var made state.Made
		for _, m := range s.Made {
			if m.Period == c.Period && m.Minutes == c.Minutes {
				made = m
			}
		}
		if made.Revision == 0 {
			fmt.Fprintf(w, "  %d\t%d\t\t\t\t\t\n", c.Period, c.Counter)
			continue
		}
		confirmed := "yes"
		if made.Pending || made.Built.IsZero() {
			confirmed = "not known"
		}
		fmt.Fprintf(w, "  %d\t%d\t%s\t%d\t%s\t%s\t\n", c.Period, c.Counter, stored(made.Built), made.Revision, stored(made.Refresh), confirmed)
	}
}

// stored writes a time that may not be known.
func stored(t time.Time) string {
	if t.IsZero() {
		return "not known"
	}
	return clock(t)
}
