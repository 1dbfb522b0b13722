// Package labtest starts labs in tests.
package labtest

import (
	"context"
	"testing"
	"time"

	"onionbalancer/testnet/lab"
)

// Start makes a lab that is stopped when the test ends.
func Start(ctx context.Context, t *testing.T, config lab.Config) *lab.Lab {
	t.Helper()
	l, err := lab.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Errorf("stopping the test network: %v", err)
		}
	})
	return l
}

// Serve sends visitors, none of whom may be lost, and returns who answered.
func Serve(ctx context.Context, t *testing.T, l *lab.Lab, address string, count, limit int) map[string]int {
	t.Helper()
	var tally lab.Tally
	if err := l.Visits(ctx, address, count, limit, &tally); err != nil {
		t.Fatal(err)
	}
	for _, failure := range tally.Failures() {
		t.Errorf("a visitor was lost: %s", failure)
	}
	return tally.Answers()
}

// Reach visits until count instances have answered.
func Reach(ctx context.Context, t *testing.T, l *lab.Lab, address string, count int) {
	t.Helper()
	answered := map[string]bool{}
	for len(answered) < count {
		name, _, err := l.Visit(ctx, address)
		if ctx.Err() != nil {
			t.Fatalf("only %v answered: %v", answered, err)
		}
		if err != nil {
			time.Sleep(200 * time.Millisecond) // nothing is published yet
			continue
		}
		answered[name] = true
	}
}
