// Command bench compares balancer with OnionBalance, and with the targets that
// its design sets: what takes processor time with the Go benchmarks of our
// packages and with OnionBalance's own classes, and what takes a network with
// both programs on a private Tor network. Custodians of keys, tokens among them,
// it compares with each other.
//
// Every figure is measured several times, in turns with what it is compared
// with, so that whatever else the machine does strikes both alike. A ratio is
// the median of the ratios of single turns.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"onionbalancer/bench/harness"
)

// options are the flags.
type options struct {
	rounds  int
	each    time.Duration
	network bool
	cpu     bool
	custody bool
	idle    time.Duration
	out     string
	keep    string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "turns in which each figure is measured; there are four times as many transfers")
	flag.DurationVar(&o.each, "each", 300*time.Millisecond, "how long one measurement of processor time takes at least")
	flag.BoolVar(&o.cpu, "cpu", true, "measure what takes processor time")
	flag.BoolVar(&o.custody, "custody", true, "measure what keeps keys, tokens (SoftHSM) among it")
	flag.BoolVar(&o.network, "network", true, "measure on a private Tor network, which takes some minutes")
	flag.DurationVar(&o.idle, "idle", 3*time.Minute, "for how long both programs are watched while nothing happens")
	flag.StringVar(&o.out, "o", "bench/results.json", "where the figures go as JSON")
	flag.StringVar(&o.keep, "dir", "", "directory for the private network's logs; a temporary one by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// report is all figures of a run.
type report struct {
	Began   time.Time `json:"began"`
	Machine string    `json:"machine"`
	Rows    []*result `json:"rows"`

	Custody []*custodyResult `json:"custody"`
}

func run(ctx context.Context, o options) error {
	r := report{Began: time.Now().UTC().Truncate(time.Second), Machine: harness.Machine()}
	for _, part := range []struct {
		wanted  bool
		measure func(context.Context, options) ([]*result, error)
	}{{o.cpu, measureProcessor}, {o.network, measureNetwork}} {
		if !part.wanted {
			continue
		}
		rows, err := part.measure(ctx, o)
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, rows...)
	}
	if o.custody {
		var err error
		if r.Custody, err = measureCustody(ctx, o); err != nil {
			return err
		}
	}
	r.print()
	return r.write(o.out)
}

// print shows all figures to people.
func (r *report) print() {
	harness.ClearProgress()
	fmt.Printf("%s, %s; medians, with the lowest and the highest ratio of a turn in brackets\n", r.Machine, runtime.Version())
	if len(r.Rows) > 0 {
		fmt.Println()
		printTable(os.Stdout, r.Rows)
	}
	if len(r.Custody) > 0 {
		fmt.Println()
		printCustody(os.Stdout, r.Custody)
	}
}

// write writes all figures for programs.
func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	fmt.Printf("\nAll figures are in %s.\n", path)
	return nil
}

// pinnedCore is the core that everything runs on: the last one, which the
// system uses least for itself. It is empty where a process cannot be bound.
var pinnedCore = sync.OnceValue(func() string {
	core := strconv.Itoa(runtime.NumCPU() - 1)
	if exec.Command("taskset", "-c", core, "true").Run() != nil {
		return ""
	}
	return core
})
