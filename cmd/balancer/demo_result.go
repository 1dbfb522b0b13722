package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"onionbalancer/testnet/lab"
)

// demoResult is the result of a demonstration. Times are in seconds.
type demoResult struct {
	OK          bool    `json:"ok"`
	Claims      []claim `json:"claims"`
	Seconds     float64 `json:"seconds"`              // altogether
	Network     float64 `json:"network_seconds"`      // until the network and its instances were up
	Published   float64 `json:"published_seconds"`    // from the balancer's start
	FirstAnswer float64 `json:"first_answer_seconds"` // from the balancer's start

	Spread      *tallyResult `json:"spread,omitempty"`
	Killed      string       `json:"killed,omitempty"` // the name of an instance
	AfterKill   *tallyResult `json:"after_kill,omitempty"`
	Frozen      string       `json:"frozen,omitempty"`            // the name of an instance
	TakenOut    float64      `json:"taken_out_seconds,omitempty"` // from when it froze
	AfterFreeze *tallyResult `json:"after_freeze,omitempty"`
	AfterLoss   *tallyResult `json:"after_loss,omitempty"` // of a killed tor: new visitors

	Hosting  *hostingResult  `json:"hosting,omitempty"`
	Cluster  *clusterResult  `json:"cluster,omitempty"`
	Rotation *rotationResult `json:"rotation,omitempty"`
}

// rotationResult is about a change of the network's period and shared random
// value.
type rotationResult struct {
	Period       time.Time    `json:"period"`        // when it changed
	SharedRandom time.Time    `json:"shared_random"` // when it changed
	Visitors     *tallyResult `json:"visitors,omitempty"`
}

// claim is something that the demonstration was to show.
type claim struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func (r *demoResult) claim(ok bool, what, detail string, args ...any) {
	r.Claims = append(r.Claims, claim{What: what, OK: ok, Detail: fmt.Sprintf(detail, args...)})
}

// failed is an error that names the claims that do not hold.
func (r *demoResult) failed() error {
	var wrong []string
	for _, c := range r.Claims {
		if !c.OK {
			wrong = append(wrong, c.What)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not shown: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// print lists the claims, and what went wrong with visitors.
func (r *demoResult) print(out io.Writer) {
	fmt.Fprintln(out)
	for _, c := range r.Claims {
		mark := "ok    "
		if !c.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(out, "%s  %s (%s)\n", mark, c.What, c.Detail)
	}
	all := []*tallyResult{r.Spread, r.AfterKill, r.AfterFreeze, r.AfterLoss}
	if r.Rotation != nil {
		all = append(all, r.Rotation.Visitors)
	}
	if r.Cluster != nil {
		all = append(all, r.Cluster.Visitors)
	}
	for _, t := range all {
		if t != nil {
			for _, failure := range t.Failures {
				fmt.Fprintf(out, "        %s\n", failure)
			}
		}
	}
	fmt.Fprintf(out, "%.0f s altogether\n", r.Seconds)
}

// tallyResult is a tally that is over.
type tallyResult struct {
	Visitors int            `json:"visitors"`
	Answers  map[string]int `json:"answers"` // by instance
	Failures []string       `json:"failures"`
	Median   float64        `json:"median_seconds"`
	Slowest  float64        `json:"slowest_seconds"`

	// Of new visitors who fetched the descriptor:
	Expected map[string]float64 `json:"expected_shares,omitempty"` // 0 to 1, by instance
	Chance   *float64           `json:"chance,omitempty"`          // probability of counts as uneven as these

	names []string
}

// newTallyResult sums t up for the instances of those names.
func newTallyResult(names []string, t *lab.Tally) *tallyResult {
	r := &tallyResult{Answers: map[string]int{}, Failures: []string{}, names: names}
	for _, failure := range t.Failures() {
		r.Failures = append(r.Failures, oneLine(failure))
	}
	took, answers := t.Times(), t.Answers()
	r.Visitors = len(took) + len(r.Failures)
	for _, name := range names {
		r.Answers[name] = answers[name]
	}
	if n := len(took); n > 0 {
		r.Median, r.Slowest = took[n/2].Seconds(), took[n-1].Seconds()
	}
	return r
}

func (r *tallyResult) answered() int { return r.Visitors - len(r.Failures) }

// furthest is how far the share of any instance is from the one expected.
func (r *tallyResult) furthest(expected map[string]float64) (off float64) {
	for _, name := range r.names {
		share := float64(r.Answers[name]) / float64(max(1, r.answered()))
		off = max(off, math.Abs(share-expected[name]))
	}
	return off
}

// table draws the shares beside those expected.
func (r *tallyResult) table() string {
	var b strings.Builder
	b.WriteString("  instance  share     expected  visitors\n")
	for _, name := range r.names {
		count := r.Answers[name]
		fmt.Fprintf(&b, "  %-8s  %5.2f %%   %7.1f   %7d  %s\n", name, 100*r.Expected[name], r.Expected[name]*float64(r.answered()),
			count, strings.Repeat("█", min(count, 40)))
	}
	return b.String()
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
