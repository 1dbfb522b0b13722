package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

// What the balancer takes that does not check is subtracted, and what is counted is for
// each instance and hour.
func TestNewRow(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	at := func(minutes int, balancer, tor time.Duration, circuits, checks, failed, traffic uint64) counts {
		return counts{start.Add(time.Duration(minutes) * time.Minute), [2]time.Duration{balancer, tor}, traffic, circuits, checks, failed}
	}
	got := newRow(way{"tcp", ""},
		at(0, 2*time.Second, 3*time.Second, 10, 600, 7, 1000), at(6, 5600*time.Millisecond, 10200*time.Millisecond, 1220, 2100, 13, 601_000),
		at(1, time.Second, time.Second, 5, 0, 0, 500), at(4, 1900*time.Millisecond, 2800*time.Millisecond, 5+5, 0, 0, 500+3000))
	want := row{
		Name: "tcp", Balancer: 0.01, Tor: 0.02, BalancerChecks: 0.005, TorChecks: 0.01,
		Checks: 1500 * 10 / 60, Failed: 1, Circuits: (1210*10 - 5*20) / 60, Bytes: (600_000*10 - 3000*20) / 60,
	}
	for what, pair := range map[string][2]float64{
		"balancer": {got.Balancer, want.Balancer}, "tor": {got.Tor, want.Tor},
		"balancer for checks": {got.BalancerChecks, want.BalancerChecks}, "tor for checks": {got.TorChecks, want.TorChecks},
		"checks": {got.Checks, want.Checks}, "failed": {got.Failed, want.Failed},
		"circuits": {got.Circuits, want.Circuits}, "bytes": {got.Bytes, want.Bytes},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
	var b strings.Builder
	printTable(&b, []row{got})
	if line := "| tcp | 1.00 % (0.50 %) | 2.00 % (1.00 %) | 250 | 1.0 | 200 | 97 KiB |\n"; !strings.HasSuffix(b.String(), line) {
		t.Errorf("%swant at the end %s", b.String(), line)
	}
}
