// Command checks measures what health checks cost balancer and its tor: processor time,
// circuits and traffic. On a private Tor network of real tors, balancers with tors of
// their own check the same 60 instances at the same time, each in another way, and one
// not at all. What that one takes is subtracted from the others.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/internal/backoff"
)

// options are the flags.
type options struct {
	long   time.Duration
	asJSON bool
	keep   string
}

func main() {
	var o options
	flag.DurationVar(&o.long, "for", 5*time.Minute, "how long to measure")
	flag.BoolVar(&o.asJSON, "json", false, "print all figures as JSON instead of a table")
	flag.StringVar(&o.keep, "dir", "", "directory for logs, which is kept; a temporary one by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "checks:", err)
		os.Exit(1)
	}
}

// report is all figures of a run.
type report struct {
	Began     time.Time `json:"began"`
	Machine   string    `json:"machine"`
	Instances int       `json:"instances"`
	Seconds   float64   `json:"seconds"`
	Rows      []row     `json:"rows"` // the first does not check
}

func run(ctx context.Context, o options) error {
	r := report{Began: time.Now().UTC().Truncate(time.Second), Machine: harness.Machine(), Instances: instances}
	return harness.InDirectory(o.keep, "checks", func(dir string) error {
		err := r.measure(ctx, o, dir)
		harness.ClearProgress()
		if err != nil {
			return err
		}
		return r.print(o.asJSON)
	})
}

// measure takes the figures of all balancers at the same time, so that whatever else the
// machine and the network do strikes them alike.
func (r *report) measure(ctx context.Context, o options, dir string) (err error) {
	f, err := startField(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, b := range f.balancers {
		var cancel context.CancelFunc
		ctx, cancel = b.run.WhileRunning(ctx)
		defer cancel()
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	before, err := f.take(ctx)
	if err != nil {
		return err
	}
	harness.Progress("measuring for %v", o.long)
	if !backoff.Sleep(ctx, o.long) {
		return context.Cause(ctx)
	}
	after, err := f.take(ctx)
	if err != nil {
		return err
	}
	r.Seconds = after[0].at.Sub(before[0].at).Seconds()
	for i, b := range f.balancers {
		r.Rows = append(r.Rows, newRow(b.way, before[i], after[i], before[0], after[0]))
	}
	return nil
}

// print writes the table, or everything for programs.
func (r *report) print(asJSON bool) error {
	if asJSON {
		text, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			_, err = fmt.Println(string(text))
		}
		return err
	}
	fmt.Printf("%s, %s; %d instances, %.0f s. In brackets: without what the one that does not check takes.\n\n",
		r.Machine, runtime.Version(), r.Instances, r.Seconds)
	printTable(os.Stdout, r.Rows)
	return nil
}
