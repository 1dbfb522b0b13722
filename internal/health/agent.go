package health

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"onionbalancer/internal/printable"
)

const maxDescription = 256 // bytes of an agent's description that are kept

// ParseAgent reads the line of an agent for HAProxy's agent-check (configuration
// manual, "agent-check"): words delimited by spaces, tabs or commas, in any order and
// case, up to a description after a sharp; and "load:1.5", a load (Load). Of two words about the same, the last
// counts. Words that it does not know are named by the error, and the report has the
// rest of the line.
func ParseAgent(line string) (report AgentReport, err error) {
	if end := strings.IndexAny(line, "\r\n"); end >= 0 {
		line = line[:end]
	}
	for {
		line = strings.TrimLeft(line, " \t,")
		if description, found := strings.CutPrefix(line, "#"); found {
			report.Text = describe(description)
			return report, err
		}
		if line == "" {
			return report, err
		}
		end := strings.IndexAny(line, " \t,")
		if end < 0 {
			end = len(line)
		}
		if !report.word(line[:end]) && err == nil {
			err = fmt.Errorf("reading the agent's line: unknown word %q", line[:min(end, 40)])
		}
		line = line[end:]
	}
}

// word takes one word into the report, and reports whether it is known.
func (r *AgentReport) word(word string) bool {
	switch lower := strings.ToLower(word); lower {
	case "up":
		r.Operating = Up
	case "down", "fail", "stopped":
		r.Operating = Down
	case string(Ready), string(Drain), string(Maint):
		r.Admin = Admin(lower)
	default:
		if limit, found := strings.CutPrefix(lower, "maxconn:"); found {
			_, err := strconv.ParseUint(strings.TrimSuffix(limit, "%"), 10, 32)
			return err == nil // tor has no such limit to set
		}
		if text, found := strings.CutPrefix(lower, "load:"); found { // not HAProxy's
			load, given, err := ParseLoad(text)
			r.Loaded, r.Load = given, load
			return given && err == nil
		}
		digits, found := strings.CutSuffix(word, "%")
		percent, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil {
			return false
		}
		r.Weighted, r.Weight = true, math.Min(float64(percent)/100, maxWeight)
	}
	return true
}

// describe makes a description fit to be shown.
func describe(text string) string {
	text = printable.Text(strings.TrimSpace(text))
	if len(text) > maxDescription {
		text = strings.ToValidUTF8(text[:maxDescription], "")
	}
	return text
}
