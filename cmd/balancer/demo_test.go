package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// TestDemoCrowd is the demonstration with more instances than a descriptor has room for,
// so that the HSDirs' descriptors differ.
func TestDemoCrowd(t *testing.T) {
	t.Parallel()
	const instances, limit = 9, 3
	dir := t.TempDir()
	out, progress, status := balancer(t, "demo", "--json", "--dir", dir, "--instances", fmt.Sprint(instances), "--limit", fmt.Sprint(limit))
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	if status != exitDone || !r.OK {
		t.Errorf("status %d\n%s\n%s", status, out, progress)
	}
	if r.Spread == nil || r.AfterKill == nil || r.AfterLoss == nil || r.Killed != "web1, web2" {
		t.Fatalf("the result is not whole: %s", out)
	}
	for name, count := range r.Spread.Answers {
		if count == 0 || r.Spread.Expected[name] <= 0 {
			t.Errorf("%s was visited %d times, with a share of %v", name, count, r.Spread.Expected[name])
		}
	}
	if len(r.Spread.Answers) != instances || r.AfterLoss.Answers["web1"]+r.AfterLoss.Answers["web2"] != 0 {
		t.Errorf("the result is not whole: %s", out)
	}
}

// TestCrowdClaims: what chance does not explain fails.
func TestCrowdClaims(t *testing.T) {
	shares := map[string]float64{"web1": 0.25, "web2": 0.25, "web3": 0.5}
	for _, c := range []struct {
		answers map[string]int
		failed  string // the claims that fail
	}{
		{map[string]int{"web1": 30, "web2": 20, "web3": 50}, ""},
		{map[string]int{"web1": 50, "web2": 0, "web3": 50}, "every published instance is visited; the instances share the visitors as planned"},
		{map[string]int{"web1": 50, "web2": 25, "web3": 25}, "the instances share the visitors as planned"},
	} {
		chance := lab.Chance(c.answers, shares)
		r := &tallyResult{Answers: c.answers, Visitors: 100, Expected: shares, Chance: &chance, names: []string{"web1", "web2", "web3"}}
		d := &demo{line: newProgressLine(io.Discard)}
		d.claimCrowd(r)
		err := d.result.failed()
		if (err == nil) != (c.failed == "") || err != nil && err.Error() != "not shown: "+c.failed {
			t.Errorf("%v: %v, want %q", c.answers, err, c.failed)
		}
	}
	if n := enough(shares); n < 40 || n > 100 {
		t.Errorf("%d visitors", n)
	}
}
