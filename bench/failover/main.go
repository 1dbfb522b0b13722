// Command failover measures what visitors notice when instances fail, with balancer and
// with OnionBalance in the same run: on a private Tor network of real tors, with five
// public addresses of each program, it kills, freezes and cuts off instances, reads from
// the HSDirs when the failed one is gone from the descriptors, and counts visitors.
//
// It takes root, for the packet filter that cuts tors off, and a quarter of an hour or
// more, since most rows have to fit between two changes that the network makes by itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"onionbalancer/bench/harness"
)

// options are the flags.
type options struct {
	rows   []string
	asJSON bool
	checks bool
	keep   string
	flaps  time.Duration
}

func main() {
	var o options
	var rows string
	flag.StringVar(&rows, "rows", "", "rows to measure, with commas between; all of "+strings.Join(rowNames(), ",")+" by default")
	flag.BoolVar(&o.asJSON, "json", false, "print all figures as JSON instead of a table")
	flag.BoolVar(&o.checks, "checks", true, "have balancer check its instances every two seconds")
	flag.DurationVar(&o.flaps, "flaps", 10*time.Minute, "for how long applications go up and down in the row flap")
	flag.StringVar(&o.keep, "dir", "", "directory for logs, which is kept; a temporary one by default")
	flag.Parse()
	o.rows = rowNames()
	if rows != "" {
		o.rows = strings.Split(rows, ",")
	}
	for _, name := range o.rows {
		if !slices.Contains(rowNames(), name) {
			fmt.Fprintf(os.Stderr, "failover: no row %q\n", name)
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// rowNames are those of all rows, in order.
func rowNames() (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return append(names, "drain", "flap")
}

// report is all figures of a run.
type report struct {
	Began   time.Time `json:"began"`
	Machine string    `json:"machine"`
	Checks  string    `json:"checks"` // of balancer's configuration
	Rows    []*row    `json:"rows"`
	Drain   *drain    `json:"drain,omitempty"`
	Flap    *flap     `json:"flap,omitempty"`
}

func run(ctx context.Context, o options) error {
	if os.Getuid() != 0 {
		return errors.New("this takes root: a packet filter cuts tors off")
	}
	r := report{Began: time.Now().UTC().Truncate(time.Second), Machine: harness.Machine()}
	if o.checks {
		r.Checks = checks
	}
	return harness.InDirectory(o.keep, "failover", func(dir string) error {
		err := r.measure(ctx, o, dir)
		harness.ClearProgress()
		if len(r.Rows) > 0 || r.Drain != nil || r.Flap != nil {
			err = errors.Join(err, r.print(o.asJSON))
		}
		return err
	})
}

// measure measures all rows that are asked for. What was measured before an error stays.
func (r *report) measure(ctx context.Context, o options, dir string) (err error) {
	f, err := startField(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, p := range programs {
		var cancel context.CancelFunc
		ctx, cancel = f.running[p].WhileRunning(ctx)
		defer cancel()
	}
	if err := f.published(ctx); err != nil {
		return err
	}
	if err := f.forgets(ctx); err != nil {
		return err
	}
	for _, fault := range faults {
		if !slices.Contains(o.rows, fault.name) {
			continue
		}
		row, err := f.measure(ctx, fault)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", fault.name, err)
		}
		r.Rows = append(r.Rows, row)
		harness.ClearProgress()
		if !o.asJSON {
			row.print(os.Stderr)
		}
	}
	if slices.Contains(o.rows, "drain") {
		if r.Drain, err = f.measureDrain(ctx); err != nil {
			return fmt.Errorf("measuring drain: %w", err)
		}
	}
	if slices.Contains(o.rows, "flap") {
		if r.Flap, err = f.measureFlap(ctx, o.flaps); err != nil {
			return fmt.Errorf("measuring flap: %w", err)
		}
	}
	return nil
}

// print writes the table, or everything for programs.
func (r *report) print(asJSON bool) error {
	if asJSON {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Println(string(text))
		return err
	}
	r.table(os.Stdout)
	return nil
}
