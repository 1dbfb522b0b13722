package keystore

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Opened is what became of a reference: a custodian, or why there is none.
type Opened struct {
	Custodian Custodian
	Err       error
}

// OpenAll opens many references as Open does, several at once, and returns what became of
// each, in their order. After each it calls progress, if there is one, with how many are
// done, one call at a time. When ctx ends, it opens no more: the rest have its error.
func OpenAll(ctx context.Context, refs []string, progress func(done int)) []Opened {
	opened := make([]Opened, len(refs))
	var mu sync.Mutex
	done := 0
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i, ref := range refs {
		workers.Go(func() error {
			o := &opened[i]
			if o.Err = context.Cause(ctx); o.Err == nil {
				o.Custodian, o.Err = Open(ref)
			}
			mu.Lock()
			defer mu.Unlock()
			if done++; progress != nil {
				progress(done)
			}
			return nil
		})
	}
	_ = workers.Wait()
	return opened
}
