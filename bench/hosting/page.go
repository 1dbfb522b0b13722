package hosting

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"onionbalancer/bench/report"
)

// Page is the text with the table, and Figures what the table and the drawings are made of.
// The drawings are beside Figures.
const (
	Page    = "doc/hosting.md"
	Figures = "doc/hosting/month.json"
)

// allowed is the age in minutes that no descriptor may reach.
const allowed = 170

// Table is the table of some runs.
func Table(runs []Result) report.Table {
	t := report.Table{Name: "month", Head: []string{
		"customers", "shards", "tors", "days", "replicas failed", "tors died", "oldest descriptor", "longest without a live point",
		"uploads per customer and hour", "most uploads a minute, of one tor", "processor time per customer and hour",
	}}
	for _, r := range runs {
		t.Add(r.Customers, r.Shards, r.Tors, report.Number(report.Round(r.Days)), r.ReplicaFailures, r.TorFailures, fmt.Sprintf("%.0f min", r.Oldest), fmt.Sprintf("%.0f s", r.Spell),
			fmt.Sprintf("%.1f", r.Uploads), r.PerMinute, fmt.Sprintf("%.2f ms", r.CPU))
	}
	return t
}

// largest returns which run has the most customers.
func largest(runs []Result) (at int) {
	for n, r := range runs {
		if r.Customers > runs[at].Customers {
			at = n
		}
	}
	return at
}

// Charts draws the day of the largest run.
func Charts(runs []Result) []report.Chart {
	largest := runs[largest(runs)]
	hours := report.Axis{Label: "time of the day (UTC)", From: 0, To: 24, Step: 3}
	uploads := report.Series{Name: fmt.Sprintf("%d customers", largest.Customers)}
	limit := report.Series{Name: "publish_rate of all tors", Dashed: true}
	oldest := report.Series{Name: "oldest that a client could get"}
	most := report.Series{Name: "HSDirs keep it for 180 minutes; allowed are 170", Dashed: true}
	for n, at := range largest.Day {
		hour := float64(n) * StepMinutes / 60
		uploads.Add(hour, at.Uploads)
		oldest.Add(hour, at.Oldest)
	}
	for _, hour := range []float64{0, 24} {
		limit.Add(hour, float64(largest.Rate*largest.Tors))
		most.Add(hour, allowed)
	}
	return []report.Chart{
		{Name: "uploads", Title: "Uploads a second over a day", X: hours, Y: report.Axis{Label: "uploads a second"}, Series: []report.Series{uploads, limit}},
		{Name: "oldest", Title: "The oldest descriptor over a day", X: hours, Y: report.Axis{Label: "age in minutes", From: 0, To: 180, Step: 30}, Series: []report.Series{oldest, most}},
	}
}

// Files returns what runs make of the page, and of the files beside Figures, by path.
func Files(page string, runs []Result) (map[string]string, error) {
	runs = slices.Clone(runs)
	for n := range runs {
		if n != largest(runs) {
			runs[n].Day = nil
		}
	}
	raw, err := json.Marshal(runs)
	if err != nil {
		return nil, fmt.Errorf("encoding the figures: %w", err)
	}
	text, err := report.Fill(page, Table(runs))
	if err != nil {
		return nil, fmt.Errorf("filling in %s: %w", Page, err)
	}
	files := map[string]string{Page: text, Figures: string(raw) + "\n"}
	for _, c := range Charts(runs) {
		files[filepath.Join(filepath.Dir(Figures), c.Name+".svg")] = c.SVG()
	}
	return files, nil
}

// Write writes the figures of runs. It runs in the module's root.
func Write(runs []Result) error {
	page, err := os.ReadFile(Page)
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	files, err := Files(string(page), runs)
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing figures: %w", err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("writing figures: %w", err)
		}
	}
	return nil
}
