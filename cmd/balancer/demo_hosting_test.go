package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
)

// TestDemoHosting is the demonstration of shared hosting with as many customers as a small
// host has.
func TestDemoHosting(t *testing.T) {
	t.Parallel()
	const customers = 300
	dir := t.TempDir()
	out, progress, status := balancer(t, "demo", "--hosting", "--json", "--dir", dir, "--customers", fmt.Sprint(customers))
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	if status != exitDone || !r.OK {
		t.Errorf("status %d\n%s\n%s", status, out, progress)
	}
	h := r.Hosting
	if h == nil || r.Spread == nil || r.AfterKill == nil {
		t.Fatalf("the result is not whole: %s", out)
	}
	t.Logf("network %.0f s, %d customers published %.0f s after the start", r.Network, h.Customers, r.Published)
	t.Logf("visits: median %.2f s, slowest %.1f s; after %s was killed: %.2f s, %.1f s", r.Spread.Median, r.Spread.Slowest, r.Killed, r.AfterKill.Median, r.AfterKill.Slowest)
	t.Logf("added: confirmed after %.1f s, visited after %.1f s; withdrawn after %.1f s; resumed after %.1f s; a dead tor's addresses moved after %.0f s",
		h.Confirmed, h.FirstVisit, h.Withdrawn, h.Resumed, h.Moved)
	t.Logf("a visit takes %.1f ms of a replica's processor time, with %d lines in ob_config", h.Introduction, h.Lines)
	if h.Customers != customers || r.Spread.Visitors != customers || r.AfterKill.Visitors != customers+1 || h.FirstVisit <= 0 || h.Resumed <= 0 {
		t.Errorf("the result is not whole: %s", out)
	}
	if h.FirstVisit > 60 { // seconds; 1.2 were seen on a busy machine
		t.Errorf("an added customer was first visited after %.1f s", h.FirstVisit)
	}
	if os.Getenv("BALANCER_SOAK") != "" && h.Introduction > 5 {
		t.Errorf("a visit takes %.1f ms of a replica's processor time: tor has become slower", h.Introduction)
	}
	if left := inDirectory(t, dir); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDemoHostingRefuses(t *testing.T) {
	for _, args := range [][]string{{"--customers", "1"}, {"--customers", "501"}, {"--instances", "4"}, {"--fetches", "90"}, {"--rotate"}, {"--limit", "3"}, {"--relays", "1"}} {
		root := newRootCommand()
		root.SetArgs(append([]string{"demo", "--hosting", "--dir", t.TempDir()}, args...))
		root.SetErr(io.Discard)
		if err := root.Execute(); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
