package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"time"

	"onionbalancer/bench/cputime"
	"onionbalancer/bench/harness"
)

// custody is a row about one thing that keeps a key. Each is a benchmark in
// which no two operations are the same: every certification is for a new period
// and a new descriptor-signing key, and every signature of another message.
type custody struct {
	name      string
	pkg       string
	benchmark string
}

// A token signs in a process of its own, so that what it takes is not what
// balancer takes: both are measured, and the time on the clock.
var custodies = []custody{
	{"open, of many: key on disk", "bench/custody", "BenchmarkOpenAll/disk"},
	{"… sealed", "bench/custody", "BenchmarkOpenAll/sealed"},
	{"certify: key on disk", "bench/custody", "BenchmarkCertify/disk"},
	{"… sealed, AES-GCM", "bench/custody", "BenchmarkCertify/sealed/aes-gcm"},
	{"… sealed, AES key wrap", "bench/custody", "BenchmarkCertify/sealed/aes-key-wrap"},
	{"… sealed, RSA-OAEP", "bench/custody", "BenchmarkCertify/sealed/rsa-oaep-sha1"},
	{"… sealed, ECDH over P-256", "bench/custody", "BenchmarkCertify/sealed/ecdh-p256"},
	{"… sealed, RSA-OAEP, 256 at once", "bench/custody", "BenchmarkCertifyTogether/sealed/apart"},
	{"… sealed together, RSA-OAEP, 256 at once", "bench/custody", "BenchmarkCertifyTogether/sealed/together"},
	{"… offline, looked up in the bundle", "bench/custody", "BenchmarkCertify/offline"},
	{"sign: descriptor-signing key in memory", "bench/custody", "BenchmarkSign/memory"},
	{"… in the token", "bench/custody", "BenchmarkSign/token"},
	{"descriptor of 20 unchanged points, key in memory", "bench/custody", "BenchmarkDescriptor/memory"},
	{"… key in the token", "bench/custody", "BenchmarkDescriptor/token"},
}

// custodyResult is one row, in seconds for each operation.
type custodyResult struct {
	Name   string `json:"name"`
	How    string `json:"how"`
	Clock  series `json:"clock"`
	Ours   series `json:"processor"`        // of balancer itself
	Helper series `json:"processor_helper"` // of the process that has loaded the token's module; 0 if there is none
}

// rate is how many there are in a second, one after the other.
func (r *custodyResult) rate() float64 { return 1 / r.Clock.median() }

// measureCustody goes through all custodies, turn after turn.
func measureCustody(ctx context.Context, o options) (rows []*custodyResult, err error) {
	dir, err := os.MkdirTemp("", "balancer-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	benchmarks := &goBenchmarks{dir: dir, binaries: map[string]string{}}
	for _, c := range custodies {
		rows = append(rows, &custodyResult{Name: c.name, How: command(c.pkg, c.benchmark)})
	}
	for turn := range o.rounds {
		for i, c := range custodies {
			harness.Progress("custody, turn %d of %d: %s", turn+1, o.rounds, c.name)
			if err := c.turn(ctx, rows[i], benchmarks, o.each); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

func (c *custody) turn(ctx context.Context, r *custodyResult, b *goBenchmarks, each time.Duration) error {
	measured, err := b.measure(ctx, c.pkg, c.benchmark, each)
	if err != nil {
		return err
	}
	r.Clock = append(r.Clock, measured["ns/op"])
	r.Ours = append(r.Ours, measured[cputime.Metric])
	r.Helper = append(r.Helper, measured[cputime.ChildrenMetric])
	return nil
}

// printCustody writes all rows.
func printCustody(out io.Writer, rows []*custodyResult) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "custody\tper second\ton the clock\tprocessor time\tof the token's process")
	for _, r := range rows {
		helper := r.Helper.median()
		if helper == 0 {
			helper = math.NaN()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, digits(r.rate()),
			unitSeconds.format(r.Clock.median()), unitSeconds.format(r.Ours.median()), unitSeconds.format(helper))
	}
	w.Flush()
	fmt.Fprintln(out, "\nThe token is SoftHSM, which works as fast as the processor does; others take what they take, often 30 ms and more for each operation.")
}
