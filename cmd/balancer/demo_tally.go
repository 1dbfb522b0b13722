package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// tally counts who answered visitors.
type tally struct {
	mu      sync.Mutex
	names   []string // of the instances
	answers map[string]int
	errors  []string
	took    []time.Duration
}

func newTally(names []string) *tally {
	return &tally{names: slices.Clone(names), answers: map[string]int{}}
}

// add counts a visitor, whom nobody answered if there is an error.
func (t *tally) add(name string, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.errors = append(t.errors, fmt.Sprintf("%s: after %.1f s: %s", clock(time.Now()), took.Seconds(), oneLine(err.Error())))
		return
	}
	t.answers[name]++
	t.took = append(t.took, took)
}

func (t *tally) count(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answers[name]
}

func (t *tally) answered() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.took)
}

func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.errors)
}

func (t *tally) total() int { return t.answered() + t.failures() }

func (t *tally) slowest() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took) == 0 {
		return 0
	}
	return slices.Max(t.took)
}

// furthest is how far the share of any instance is from the even one.
func (t *tally) furthest(even float64) float64 {
	answered := max(1, t.answered())
	var off float64
	for _, name := range t.names {
		off = max(off, math.Abs(float64(t.count(name))/float64(answered)-even))
	}
	return off
}

// String is the tally as one line, for the progress.
func (t *tally) String() string {
	var b strings.Builder
	for _, name := range t.names {
		fmt.Fprintf(&b, "%s %d, ", name, t.count(name))
	}
	fmt.Fprintf(&b, "failed %d", t.failures())
	return b.String()
}

// tallyResult is a tally that is over.
type tallyResult struct {
	Visitors int            `json:"visitors"`
	Answers  map[string]int `json:"answers"` // by instance
	Failures []string       `json:"failures"`
	Median   float64        `json:"median_seconds"`
	Slowest  float64        `json:"slowest_seconds"`

	names []string
}

func (t *tally) result() *tallyResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &tallyResult{
		Visitors: len(t.took) + len(t.errors), Answers: map[string]int{},
		Failures: append([]string{}, t.errors...), names: t.names,
	}
	for _, name := range t.names {
		r.Answers[name] = t.answers[name]
	}
	if sorted := slices.Sorted(slices.Values(t.took)); len(sorted) > 0 {
		r.Median, r.Slowest = sorted[len(sorted)/2].Seconds(), sorted[len(sorted)-1].Seconds()
	}
	return r
}

// chart draws the shares as bars.
func (r *tallyResult) chart() string {
	const width = 40 // of a bar that stands for all visitors
	var b strings.Builder
	for _, name := range r.names {
		share := float64(r.Answers[name]) / float64(max(1, r.Visitors))
		bar := strings.Repeat("█", int(math.Round(share*width)))
		fmt.Fprintf(&b, "  %-8s %-*s %4d  %5.1f %%\n", name, width, bar, r.Answers[name], 100*share)
	}
	if len(r.Failures) > 0 {
		fmt.Fprintf(&b, "  %-8s %-*s %4d\n", "nobody", width, "", len(r.Failures))
	}
	return b.String()
}
