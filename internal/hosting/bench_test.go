package hosting

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"onionbalancer/internal/state"
)

// BenchmarkAdd adds 1,000 customers at once, with a store and directories that are synced.
func BenchmarkAdd(b *testing.B) {
	const adds = 1000
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		for n := range 4 {
			spares(b, filepath.Join(dir, fmt.Sprint("s", n)), n*adds/4, adds/4)
		}
		store, err := state.Open(filepath.Join(dir, "state"), state.Options{})
		if err != nil {
			b.Fatal(err)
		}
		r := open(b, store, filepath.Join(dir, "s0"), filepath.Join(dir, "s1"), filepath.Join(dir, "s2"), filepath.Join(dir, "s3"))
		b.StartTimer()
		var wait sync.WaitGroup
		for n := range adds {
			wait.Go(func() {
				if _, added, err := r.Add(b.Context(), fmt.Sprint("customer", n), "", fmt.Sprint("request", n)); err != nil || !added {
					b.Error(err)
				}
			})
		}
		wait.Wait()
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
