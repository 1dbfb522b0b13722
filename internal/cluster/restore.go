package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"onionbalancer/internal/state"
)

// Restore writes what this manager knows into a store that lost everything, so that the
// managers go on: an operator says that it did, and is not a store that was put back by
// mistake. What others publish they write again themselves.
func (c *Cluster) Restore(ctx context.Context) error {
	entries, _ := c.cfg.Store.List("") // what the mirror had; nothing if it was never read
	entries = slices.DeleteFunc(entries, func(e state.Entry) bool { return strings.HasPrefix(string(e.Key), memberPrefix) })
	known := map[state.Key]bool{}
	for _, e := range entries {
		known[e.Key] = true
	}
	c.mu.Lock()
	var missing []state.Key
	for a := range c.services {
		if key := state.ServiceKey(a); !known[key] {
			missing = append(missing, key)
		}
	}
	c.mu.Unlock()
	for _, key := range missing {
		if value, version, err := c.cfg.Local.Get(key); err == nil && version != 0 {
			entries = append(entries, state.Entry{Key: key, Value: value})
		}
	}
	for _, prefix := range copiedPrefixes {
		list, err := c.cfg.Local.List(prefix)
		if err != nil {
			return fmt.Errorf("restoring the store of the cluster: %w", err)
		}
		entries = append(entries, slices.DeleteFunc(list, func(e state.Entry) bool { return known[e.Key] })...)
	}
	secrets, _ := c.cfg.Store.List(state.SecretPrefix)
	defer func() {
		for _, e := range secrets {
			clear(e.Value)
		}
	}()
	return c.cfg.Store.Restore(ctx, slices.Concat(entries, secrets))
}
