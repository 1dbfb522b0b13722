package health

import (
	"strings"
	"testing"

	"onionbalancer/internal/printable"
)

// TestParseAgent has every word of HAProxy's manual, and lines that its tests and
// users' agents send.
func TestParseAgent(t *testing.T) {
	for line, want := range map[string]AgentReport{
		"75%":        {Weighted: true, Weight: 0.75},
		"0%":         {Weighted: true},
		"100%":       {Weighted: true, Weight: 1},
		"250%":       {Weighted: true, Weight: 2.5},
		"999999999%": {Weighted: true, Weight: maxWeight},
		"maxconn:30": {},
		"ready":      {Admin: Ready},
		"drain":      {Admin: Drain},
		"maint":      {Admin: Maint},
		"up":         {Operating: Up},
		"down":       {Operating: Down},
		"fail":       {Operating: Down},
		"stopped":    {Operating: Down},
		"":           {},
		" \t,, \r\n": {},

		"down # the database is gone":  {Operating: Down, Text: "the database is gone"},
		"fail#x":                       {}, // as HAProxy: no sharp begins within a word
		"stopped\t#expected\n":         {Operating: Down, Text: "expected"},
		"75%,maxconn:30,maint,down\n":  {Operating: Down, Admin: Maint, Weighted: true, Weight: 0.75},
		"up ready 100%\r\nsecond line": {Operating: Up, Admin: Ready, Weighted: true, Weight: 1},
		"UP, Ready\t50%":               {Operating: Up, Admin: Ready, Weighted: true, Weight: 0.5},
		"drain ready":                  {Admin: Ready}, // the last counts
		"10% 20%":                      {Weighted: true, Weight: 0.2},
		"# down":                       {Text: "down"},
		"up #a, b # c":                 {Operating: Up, Text: "a, b # c"},
		"MAXCONN:50%":                  {},
		"up load:1.5 75%":              {Operating: Up, Weighted: true, Weight: 0.75, Loaded: true, Load: 1.5},
		"LOAD:0":                       {Loaded: true},
	} {
		got, err := ParseAgent(line)
		if got != want || (err != nil) != (line == "fail#x") {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
}

// TestParseAgentUnknown: what is not known is named, the rest of the line counts.
func TestParseAgentUnknown(t *testing.T) {
	for _, word := range []string{"dwon", "75", "%", "-5%", "+5%", "1.5%", "maxconn:", "maxconn:x", "load:", "load:-", "load:-1", "load:NaN", "HTTP/1.1"} {
		got, err := ParseAgent("up " + word + " drain other")
		if err == nil || !strings.Contains(err.Error(), `"`+word+`"`) {
			t.Errorf("%q: error %v", word, err)
		}
		if want := (AgentReport{Operating: Up, Admin: Drain}); got != want {
			t.Errorf("%q: %+v", word, got)
		}
	}
}

func FuzzParseAgent(f *testing.F) {
	f.Add("75%,maxconn:30,maint,down # text\x1b[2J")
	f.Add("up\tready #" + strings.Repeat("\u202e", 300))
	f.Fuzz(func(t *testing.T, line string) {
		report, err := ParseAgent(line)
		if len(report.Text) > maxDescription || printable.Text(report.Text) != report.Text && !strings.Contains(report.Text, `\`) {
			t.Errorf("description %q", report.Text)
		}
		if err != nil && (len(err.Error()) > 300 || printable.Text(err.Error()) != err.Error() && !strings.Contains(err.Error(), `\`)) {
			t.Errorf("error %q", err)
		}
		if report.Load < 0 || report.Load > maxLoad || !report.Loaded && report.Load != 0 {
			t.Errorf("load %v", report.Load)
		}
		if !report.Weighted && report.Weight != 0 || report.Weight < 0 || report.Weight > maxWeight {
			t.Errorf("weight %v", report.Weight)
		}
	})
}
