package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// table writes all figures in Markdown.
func (r *report) table(out io.Writer) {
	if len(r.Rows) > 0 {
		fmt.Fprintln(out, "| what fails | program | HSDirs clean | lost before: keeps its descriptor | drops it | lost after: keeps its descriptor | drops it | back | most out | publications |")
		fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|---|")
		for _, row := range r.Rows {
			for _, line := range row.lines() {
				fmt.Fprintln(out, line)
			}
		}
	}
	if d := r.Drain; d != nil {
		fmt.Fprintf(out, "\nDrain: clean after %s; of %d visitors %d lost; of %d later ones by a client without an older descriptor, %d came to the drained instance.\n",
			spread(d.Clean), d.Visitors.Visits, d.Visitors.Lost, d.Later, d.Drained)
	}
	if f := r.Flap; f != nil {
		fmt.Fprintf(out, "\nFlapping: in %.0f s, %d times down altogether, the services were published %v times; one without a flapping instance %d times.\n",
			f.Seconds, f.Flaps, f.Publications, f.Quiet)
	}
}

// print writes a row for somebody who waits for more.
func (r *row) print(out io.Writer) {
	fmt.Fprintf(out, "%s, %.0f s:\n", r.Name, r.Seconds)
	for _, line := range r.lines() {
		fmt.Fprintln(out, line)
	}
	for _, p := range r.Turns[ours] {
		if p.Panic != nil {
			fmt.Fprintf(out, "set %d: status said panic after %.1f s\n", p.Set, *p.Panic)
		}
	}
}

// lines are those of the table.
func (r *row) lines() (lines []string) {
	for _, p := range programs {
		var before, after [2]count
		var clean, back []*float64
		var published []int
		most := 0
		for _, t := range r.Turns[p] {
			clean, back = append(clean, t.Clean), append(back, t.Back)
			for kind := range before {
				before[kind].join(t.Before[kind])
				after[kind].join(t.After[kind])
			}
			published = append(published, t.Publications)
			most = max(most, t.MostOut)
		}
		slices.Sort(published)
		lines = append(lines, "| "+strings.Join([]string{r.What, p.String(), spread(clean), before[keeps].String(), before[drops].String(),
			after[keeps].String(), after[drops].String(), spread(back), fmt.Sprint(most), fmt.Sprint(published[len(published)/2])}, " | ")+" |")
	}
	return lines
}

func (c *count) join(d count) {
	c.Visits += d.Visits
	c.Lost += d.Lost
	c.Slow += d.Slow
}

// spread writes the median and the extremes of times, of which some may be missing:
// they count as longer than all others.
func spread(times []*float64) string {
	var known []float64
	for _, t := range times {
		if t != nil {
			known = append(known, *t)
		}
	}
	slices.Sort(known)
	if 2*len(known) <= len(times) {
		if len(known) == 0 {
			return "–"
		}
		return fmt.Sprintf("– (%d of %d)", len(known), len(times))
	}
	text := fmt.Sprintf("%.1f s [%.1f–", known[(len(times)-1)/2], known[0])
	if len(known) < len(times) {
		return text + fmt.Sprintf("…, %d of %d]", len(known), len(times))
	}
	return text + fmt.Sprintf("%.1f]", known[len(known)-1])
}
