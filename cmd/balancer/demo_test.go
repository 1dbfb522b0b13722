package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"onionbalancer/testnet/lab"
)

// TestDemo is the demonstration itself, on real tor.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, progress, status := balancer(t, "demo", "--json", "--dir", dir)
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	if status != exitDone || !r.OK {
		t.Errorf("status %d\n%s\n%s", status, out, progress)
	}
	if len(r.Claims) != 6 || r.Spread.Visitors < 90 || len(r.Spread.Answers) != 3 || r.AfterKill.Answers[r.Killed] != 0 ||
		r.Frozen == "" || r.TakenOut <= 0 || r.AfterFreeze.Answers[r.Frozen] != 0 {
		t.Errorf("the result is not whole: %s", out)
	}
	if r.FirstAnswer <= 0 || r.FirstAnswer > 30 || r.Published > r.FirstAnswer {
		t.Errorf("published after %v s, first answer after %v s", r.Published, r.FirstAnswer)
	}
	if left := inDirectory(t, dir); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestTally(t *testing.T) {
	var tally lab.Tally
	for range 2 {
		tally.Add("a", 3*time.Second, nil)
	}
	tally.Add("b", time.Second, nil)
	tally.Add("c", 2*time.Second, nil)
	tally.Add("", time.Minute, errors.New("lost"))
	r := newTallyResult([]string{"a", "b", "c"}, &tally)
	if got := r.furthest(map[string]float64{"a": 1. / 3, "b": 1. / 3, "c": 1. / 3}); got < 0.166 || got > 0.167 {
		t.Errorf("the furthest share is off by %v", got)
	}
	if r.Median != 3 || r.Slowest != 3 || r.Visitors != 5 || r.answered() != 4 || len(r.Failures) != 1 || r.Answers["a"] != 2 {
		t.Errorf("result %+v", r)
	}
	chart := r.chart()
	if !strings.Contains(chart, " 40.0 %") || strings.Count(chart, "█") != 16+8+8 || !strings.Contains(chart, "nobody") {
		t.Errorf("chart:\n%s", chart)
	}
}

func TestDemoResultFails(t *testing.T) {
	var r demoResult
	r.claim(true, "one", "yes")
	if err := r.failed(); err != nil {
		t.Error(err)
	}
	r.claim(false, "two", "%d of %d", 1, 2)
	if err := r.failed(); err == nil || !strings.Contains(err.Error(), "two") || strings.Contains(err.Error(), "one") {
		t.Errorf("got %v", err)
	}
	var b strings.Builder
	r.print(&b)
	if !strings.Contains(b.String(), "FAILED  two (1 of 2)") || !strings.Contains(b.String(), "ok      one (yes)") {
		t.Errorf("printed:\n%s", b.String())
	}
}
