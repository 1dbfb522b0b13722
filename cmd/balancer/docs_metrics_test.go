package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsMetrics: the README lists each metric with its labels, and no other.
func TestDocsMetrics(t *testing.T) {
	var want []string
	described := regexp.MustCompile(`describe\("(\w+)", "[^"]+"((?:, "?\w+"?)*)\)`)
	for _, m := range described.FindAllStringSubmatch(readDoc(t, "internal/status/metrics.go"), -1) {
		name := "balancer_" + m[1]
		if labels := strings.NewReplacer(", ", ",", `"`, "", "byService", "service", "byBackend", "backend").Replace(m[2]); labels != "" {
			name += "{" + labels[1:] + "}"
		}
		want = append(want, name)
	}
	if len(want) < 20 {
		t.Fatalf("only %d metrics found", len(want))
	}
	var got []string
	for _, cells := range rows(section(t, "Metrics")) {
		got = append(got, code(cells[0]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("documented are\n%s\nthere are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
