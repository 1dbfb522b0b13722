package credential

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Gate is what the custodian of a service has in common with those of thousands of others: a
// disk and processors, or a token. Not more than Places of them are asked to certify at once;
// more would wait for each other until they time out. The zero value is no gate.
type Gate struct {
	Name   string
	Places int64
}

// Gates are the gates of all services of a process. A nil one stops no one.
type Gates struct {
	mu     sync.Mutex
	places map[Gate]*semaphore.Weighted
}

// NewGates returns gates at which no one is.
func NewGates() *Gates { return &Gates{places: map[Gate]*semaphore.Weighted{}} }

// within calls f in a place of gate, for which it waits, in the order of those who came,
// until ctx ends.
func (g *Gates) within(ctx context.Context, gate Gate, f func() error) error {
	if g == nil || gate == (Gate{}) {
		return f()
	}
	g.mu.Lock()
	places := g.places[gate]
	if places == nil {
		places = semaphore.NewWeighted(gate.Places)
		g.places[gate] = places
	}
	g.mu.Unlock()
	if err := places.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting for the keys of other services: %w", err)
	}
	defer places.Release(1)
	return f()
}
