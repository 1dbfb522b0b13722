package backend

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// TestForgetsInstances: records of periods long before are deleted, on the disk and
// in memory; others stay, whether or not somebody uses the instance.
func TestForgetsInstances(t *testing.T) {
	store := statetest.Open(t, "")
	gone, renewed, before := descriptor.Address{1}, descriptor.Address{2}, descriptor.Address{3}
	for _, a := range []descriptor.Address{gone, renewed} {
		if _, err := store.SwapInstance(t.Context(), a, 0, state.Instance{Period: 20000, Minutes: 1440}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.SwapInstance(t.Context(), before, 0, state.Instance{Period: 20001, Minutes: 1440}); err != nil {
		t.Fatal(err)
	}
	v := newSaver(store)
	v.setClaims(descriptor.Period{Number: 20002, Length: 24 * time.Hour}, Claims{})
	v.setInstance(renewed, state.Instance{Period: 20002, Minutes: 1440}) // before it was deleted
	if err := v.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := store.Instances()
	if err != nil || len(list) != 2 || list[0].Address == gone || list[1].Address == gone {
		t.Errorf("stored %+v, %v", list, err)
	}
	if len(v.instances) != 2 || v.instances[renewed].record.Period != 20002 {
		t.Errorf("in memory %+v", v.instances)
	}
	v.setInstance(gone, state.Instance{Period: 20002, Minutes: 1440})
	if err := v.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := store.Instances(); len(list) != 3 || err != nil {
		t.Errorf("used again: stored %+v, %v", list, err)
	}
}
