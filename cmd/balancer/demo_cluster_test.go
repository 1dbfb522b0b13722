package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestDemoCluster is the demonstration of several managers, on real tor and real etcd.
func TestDemoCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, progress, status := balancer(t, "demo", "--cluster", "--json", "--dir", dir)
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	if status != exitDone || !r.OK {
		t.Errorf("status %d\n%s\n%s", status, out, progress)
	}
	c := r.Cluster
	if c == nil || c.Visitors == nil || len(c.Takeovers) != 1 {
		t.Fatalf("the result is not whole: %s", out)
	}
	taken := c.Takeovers[0]
	t.Logf("network %.0f s, published %.1f s after the start; %d given in %.1f s; %d of %s taken in %.1f s; %d visitors, the slowest %.1f s; %.0f s altogether",
		r.Network, r.Published, c.Given, c.GivenIn, taken.Services, taken.Manager, taken.Seconds, c.Visitors.Visitors, c.Visitors.Slowest, r.Seconds)
	if taken.Services == 0 || c.Given == 0 || c.Visitors.Visitors < 30 || taken.Well <= 0 || c.EtcdBytes < 10_000 {
		t.Errorf("the result is not whole: %s", out)
	}
	if left := inDirectory(t, dir); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestDemoClusterRefuses(t *testing.T) {
	for _, args := range [][]string{{"--hosting"}, {"--instances", "9"}, {"--fetches", "90"}, {"--limit", "3"}, {"--relays", "1"}} {
		root := newRootCommand()
		root.SetArgs(append([]string{"demo", "--cluster", "--dir", t.TempDir()}, args...))
		root.SetErr(io.Discard)
		if err := root.Execute(); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestSearch: what is sought is found in each of its spellings.
func TestSearch(t *testing.T) {
	needles := spellings([]string{publicAddress, "bergen"})
	for _, n := range needles {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "db"), append([]byte("x"), n...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, found, err := search(dir, needles); err != nil || len(found) != 1 {
			t.Errorf("%q: found %q, %v", n, found, err)
		}
	}
	if len(needles) != 4 {
		t.Errorf("%d spellings", len(needles))
	}
}
