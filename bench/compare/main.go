// Command compare runs balancer and OnionBalance side by side with 30 instances, which is
// more than a descriptor has room for: on a private Tor network of real tors it reads from
// the HSDirs what each publishes, counts whom new visitors come to, kills the instances
// that OnionBalance's descriptor leads to, and takes the time until the public addresses
// answer again. It takes less than ten minutes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"onionbalancer/bench/harness"
)

// options are the flags.
type options struct {
	visits int
	watch  time.Duration
	asJSON bool
	keep   string
}

func main() {
	var o options
	flag.IntVar(&o.visits, "visits", 300, "new visitors of each address")
	flag.DurationVar(&o.watch, "watch", 90*time.Second, "how long the killed instances stay away")
	flag.BoolVar(&o.asJSON, "json", false, "print all figures as JSON instead of tables")
	flag.StringVar(&o.keep, "dir", "", "directory for logs, which is kept; a temporary one by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	r := report{Began: time.Now().UTC().Truncate(time.Second), Machine: harness.Machine(), Instances: instances}
	return harness.InDirectory(o.keep, "compare", func(dir string) error {
		err := r.measure(ctx, o, dir)
		harness.ClearProgress()
		r.Seconds = time.Since(r.Began).Seconds()
		if len(r.Sides) > 0 {
			err = errors.Join(err, r.print(os.Stdout, o.asJSON))
		}
		return err
	})
}

// measure measures everything. What was measured before an error stays.
func (r *report) measure(ctx context.Context, o options, dir string) (err error) {
	f, err := startField(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, p := range f.running {
		var cancel context.CancelFunc
		ctx, cancel = p.WhileRunning(ctx)
		defer cancel()
	}
	if err := f.published(ctx); err != nil {
		return err
	}
	r.Sides = f.sides
	if err := f.readAll(ctx); err != nil {
		return err
	}
	if err := f.visitAll(ctx, o.visits); err != nil {
		return err
	}
	r.Killed, err = f.killAll(ctx, o.watch)
	return err
}

// report is all figures of a run.
type report struct {
	Began     time.Time `json:"began"`
	Seconds   float64   `json:"seconds"` // altogether
	Machine   string    `json:"machine"`
	Instances int       `json:"instances"` // that answer under all addresses
	Killed    int       `json:"killed"`    // of them
	Sides     []*side   `json:"sides"`
}

// print writes tables in Markdown, or everything for programs.
func (r *report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	fmt.Fprintln(out, "| program | backends in its configuration | points in a descriptor | points in all | backends that can be asked | new visitors served | backends that served them |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	for _, s := range r.Sides {
		published := s.Published
		each := fmt.Sprintf("%d to %d", published.Least, published.Most)
		if published.Least == published.Most {
			each = fmt.Sprint(published.Most)
		}
		if published.Refused != "" {
			each = "none published"
		}
		fmt.Fprintf(out, "| %s | %d of %d | %s | %d | %d | %s | %d |\n", s.Name, s.Backends, r.Instances, each, published.Points,
			published.Asked, s.Before.served(), s.Before.answered())
	}
	fmt.Fprintf(out, "\n%d of the %d instances killed:\n\n", r.Killed, r.Instances)
	fmt.Fprintln(out, "| program | first answer after the kill | served: who hold a descriptor | new visitors | first answer after the instances were started again |")
	fmt.Fprintln(out, "|---|---|---|---|---|")
	for _, s := range r.Sides {
		if s.Killed != nil {
			back := seconds(s.Killed.Back, "none")
			if s.Killed.First != nil {
				back = "–"
			}
			fmt.Fprintf(out, "| %s, %d backends | %s | %s | %s | %s |\n", s.Name, s.Backends, seconds(s.Killed.First, "none"), s.Killed.Held.served(),
				s.Killed.Fresh.served(), back)
		}
	}
	fmt.Fprintf(out, "\n%.0f s altogether, %s, %s\n", r.Seconds, r.Machine, r.Began.Format(time.DateOnly))
	return nil
}

// seconds writes a time that there may not be.
func seconds(s *float64, none string) string {
	if s == nil {
		return none
	}
	return fmt.Sprintf("%.1f s", *s)
}
