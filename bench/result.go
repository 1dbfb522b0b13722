package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// series is what was measured in the turns of one row, in seconds, bytes, or
// a ratio.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// over divides turn by turn.
func (s series) over(t series) series {
	ratios := make(series, min(len(s), len(t)))
	for i := range ratios {
		ratios[i] = s[i] / t[i]
	}
	return ratios
}

// MarshalJSON gives the median and the extremes too.
func (s series) MarshalJSON() ([]byte, error) {
	if len(s) == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(map[string]any{
		"median": s.median(), "min": slices.Min(s), "max": slices.Max(s), "turns": []float64(s),
	})
}

// target is something that a row is to reach.
type target struct {
	What    string  `json:"what"`
	Reached float64 `json:"reached"`
	Met     bool    `json:"met"`
}

// result is one row of the table: one thing done by us and, where there is the
// like, by OnionBalance and in the best way there can be.
type result struct {
	Name         string   `json:"name"`
	How          string   `json:"how"`  // to measure our side alone
	Unit         unit     `json:"unit"` // of the three series
	Ours         series   `json:"ours"`
	Ideal        series   `json:"ideal"` // what cannot be avoided
	OnionBalance series   `json:"onionbalance"`
	Targets      []target `json:"targets,omitempty"`
}

// faster is how many times quicker we are than OnionBalance.
func (r *result) faster() series { return r.OnionBalance.over(r.Ours) }

// overhead is how many times the ideal we take.
func (r *result) overhead() series { return r.Ours.over(r.Ideal) }

// atLeast adds a target.
func (r *result) atLeast(what string, reached, wanted float64) {
	r.Targets = append(r.Targets, target{what, reached, reached >= wanted})
}

// atMost adds a target.
func (r *result) atMost(what string, reached, wanted float64) {
	r.Targets = append(r.Targets, target{what, reached, reached <= wanted})
}

// verdict says which targets are met.
func (r *result) verdict() string {
	var parts []string
	for _, t := range r.Targets {
		mark := "met: "
		if !t.Met {
			mark = "NOT MET: "
		}
		parts = append(parts, mark+t.What)
	}
	return strings.Join(parts, "; ")
}

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
