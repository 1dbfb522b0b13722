package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// unit is what a series is in.
type unit string

const (
	unitSeconds unit = "seconds"
	unitRate    unit = "bytes per second"
	unitBytes   unit = "bytes"
	unitShare   unit = "share of a core"
)

// format writes a value with three significant digits.
func (u unit) format(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	switch u {
	case unitBytes:
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	case unitRate:
		return fmt.Sprintf("%.2f MB/s", v/1e6)
	case unitShare:
		return fmt.Sprintf("%.3f %%", 100*v)
	}
	switch {
	case v < 1e-3:
		return fmt.Sprintf("%.3g µs", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.3g ms", v*1e3)
	}
	return fmt.Sprintf("%.3g s", v)
}

// ratios writes the median and the extremes.
func ratios(s series) string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s-%s]", digits(s.median()), digits(slices.Min(s)), digits(slices.Max(s)))
}

func digits(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// printTable writes all rows.
func printTable(out io.Writer, rows []*result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tbalancer\tideal\tbalancer : ideal\tOnionBalance\tOnionBalance : balancer\ttargets")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Unit.format(r.Ours.median()),
			r.Unit.format(r.Ideal.median()), ratios(r.overhead()),
			r.Unit.format(r.OnionBalance.median()), ratios(r.faster()), r.verdict())
	}
	w.Flush()
	fmt.Fprintln(out, "\nIdeal is the sum of the cryptographic primitives, as the standard library does them, or an instance's own address.")
}
