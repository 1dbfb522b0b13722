// Package statetest opens stores for tests.
package statetest

import (
	"testing"

	"onionbalancer/internal/state"
)

// Open opens a store that is never synced, in dir or, if that is empty, in a
// directory of the test's. It is closed when the test ends.
func Open(t testing.TB, dir string) *state.DB {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	d, err := state.Open(dir, state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}
