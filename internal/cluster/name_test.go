package cluster_test

import (
	"regexp"
	"testing"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/state"
)

// TestName: a manager that was given no name keeps its own, and another has another.
func TestName(t *testing.T) {
	dir := t.TempDir()
	name := func(dir string) string {
		t.Helper()
		db, err := state.Open(dir, state.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		name, err := cluster.Name(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	first := name(dir)
	if !regexp.MustCompile(`^m-[a-z2-7]{8}$`).MatchString(first) {
		t.Errorf("it is called %q", first)
	}
	if again := name(dir); again != first {
		t.Errorf("it was called %q, and is called %q", first, again)
	}
	if other := name(t.TempDir()); other == first {
		t.Errorf("two are called %q", first)
	}
}
