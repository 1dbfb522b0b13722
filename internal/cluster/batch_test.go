package cluster

import (
	"slices"
	"testing"
)

// TestLeasedFirst: what says that a manager is alive does not wait for what its services store.
func TestLeasedFirst(t *testing.T) {
	one := &request{ctx: t.Context(), ops: []Op{{Key: "1"}}}
	two := &request{ctx: t.Context(), ops: []Op{{Key: "2"}}}
	leased := &request{ctx: t.Context(), ops: []Op{{Key: "m"}}, leased: true}
	batch, rest := nextBatch([]*request{one, two, leased})
	if !slices.Equal(batch, []*request{leased}) || !slices.Equal(rest, []*request{one, two}) {
		t.Errorf("first %v, then %v", batch, rest)
	}
	if batch, rest = nextBatch(rest); len(batch) != 2 || len(rest) != 0 {
		t.Errorf("then %v, and %v", batch, rest)
	}
}
