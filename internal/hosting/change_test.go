package hosting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

func (f *failing) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes == nil || f.late {
		versions, err := f.DB.Swap(ctx, changes...)
		if err != nil || f.writes == nil {
			return versions, err
		}
	}
	return nil, f.writes
}

func (f *failing) Get(key state.Key) ([]byte, uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reads != nil {
		return nil, 0, f.reads
	}
	return f.DB.Get(key)
}

// Whatever becomes of a write that fails, no name and no spare is given twice.
func TestAddToFailingStore(t *testing.T) {
	broken := errors.New("the disk is broken")
	for _, test := range []struct {
		name  string
		reads error
		late  bool
		fails bool // the first add
	}{
		{"not written", nil, false, true},
		{"written all the same", nil, true, false},
		{"not known", broken, false, true},
		{"not known, but written", broken, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s1 := shardDir(t, "s1")
			spares(t, s1, 0, 2)
			store := &failing{DB: statetest.Open(t, "")}
			r := open(t, store, s1)
			store.fail(broken, test.reads, test.late)
			first, _, err := r.Add(t.Context(), "shop", "", "r1")
			if (err != nil) != test.fails || err != nil && !errors.Is(err, broken) {
				t.Fatalf("%+v, %v", first, err)
			}
			store.fail(nil, nil, false)
			time.Sleep(2 * time.Millisecond) // another add would differ
			again, _, err := r.Add(t.Context(), "shop", "", "r1")
			if err != nil || !test.fails && again != first {
				t.Errorf("again: %+v, %v", again, err)
			}
			other, _, err := r.Add(t.Context(), "other", "", "r2")
			if err != nil || other.Address == again.Address {
				t.Errorf("another: %+v, %v", other, err)
			}
			r = open(t, store, s1)
			if got := r.All(); len(got) != 2 || r.shardOf("s1") != (Shard{Name: "s1", Active: 2}) {
				t.Errorf("after opening it again: %+v", got)
			}
		})
	}
}

func TestStates(t *testing.T) {
	s1 := shardDir(t, "s1")
	spares(t, s1, 0, 3)
	store := statetest.Open(t, "")
	r := open(t, store, s1)
	shop, _, err := r.Add(t.Context(), "shop", "", "r1")
	if err != nil {
		t.Fatal(err)
	}
	set := func(customer string, to State, changes bool) Customer {
		t.Helper()
		c, changed, err := r.Set(t.Context(), customer, to, "")
		if err != nil || changed != changes || c.State != to {
			t.Fatalf("%s: %+v, %t, %v", to, c, changed, err)
		}
		return c
	}
	suspended := set("shop", Suspended, true)
	if set(shop.Address.String(), Suspended, false) != suspended {
		t.Error("suspended again, it is another")
	}
	if c, err := r.Confirm(t.Context(), shop); err != nil || c != suspended {
		t.Errorf("confirmed of what is not any more: %+v, %v", c, err)
	}
	withdrawn, err := r.Confirm(t.Context(), suspended)
	if err != nil || withdrawn.Confirmed.IsZero() {
		t.Errorf("%+v, %v", withdrawn, err)
	}
	if c := set("shop", Removed, true); !c.Confirmed.Equal(withdrawn.Confirmed) {
		t.Errorf("what was withdrawn and is removed: %+v", c)
	}
	set("shop", Removed, false)
	if _, _, err := r.Set(t.Context(), "shop", Active, ""); !errors.Is(err, ErrRemoved) {
		t.Errorf("resuming a removed one: %v", err)
	}
	if _, _, err := r.Set(t.Context(), "nobody", Active, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("changing nobody: %v", err)
	}
	if got := r.shardOf("s1"); got != (Shard{Name: "s1", Removed: 1, Spares: 2}) {
		t.Errorf("shard %+v", got)
	}
	// The request is answered as before; the name is free.
	if c, added, err := r.Add(t.Context(), "shop", "", "r1"); err != nil || added || c.Address != shop.Address || c.State != Removed {
		t.Errorf("the request again: %+v, %t, %v", c, added, err)
	}
	next, added, err := r.Add(t.Context(), "shop", "", "r2")
	if err != nil || !added || next.Address == shop.Address {
		t.Fatalf("the name again: %+v, %t, %v", next, added, err)
	}
	if c, err := r.Customer("shop"); err != nil || c.Address != next.Address {
		t.Errorf("called shop: %+v, %v", c, err)
	}
	if c, err := r.Customer(shop.Address.Label()); err != nil || c.State != Removed {
		t.Errorf("the removed one: %+v, %v", c, err)
	}
	if list, _ := r.List(Query{}); len(list) != 1 {
		t.Errorf("listed: %+v", list)
	}
	// The key of the removed one is erased when the replicas do not know it any more.
	for range 2 {
		if err := os.RemoveAll(filepath.Join(s1, removedDir, shop.Address.Label())); err != nil {
			t.Fatal(err)
		}
		if err := r.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := r.All(); len(all) != 1 || all[0].Address != next.Address || r.shardOf("s1").Removed != 0 {
			t.Errorf("forgotten: %+v", all)
		}
		r = open(t, store, s1)
	}
}

// A request that is made again changes nothing, whatever happened since.
func TestChangeAgain(t *testing.T) {
	s1 := shardDir(t, "s1")
	spares(t, s1, 0, 2)
	store := statetest.Open(t, "")
	r := open(t, store, s1)
	add := func(request string) Customer {
		t.Helper()
		c, _, err := r.Add(t.Context(), "shop", "", request)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	set := func(request string, to, want State, changes bool) {
		t.Helper()
		c, changed, err := r.Set(t.Context(), "shop", to, request)
		if err != nil || changed != changes || c.State != want {
			t.Errorf("%s by %s: %+v, %t, %v", to, request, c, changed, err)
		}
	}
	add("r1")
	set("r2", Suspended, Suspended, true)
	set("r3", Active, Active, true)
	set("r2", Suspended, Active, false)
	if _, _, err := r.Set(t.Context(), "shop", Active, "r2"); !errors.Is(err, ErrConflict) {
		t.Errorf("resumed by what suspended: %v", err)
	}
	set("r4", Removed, Removed, true)
	next := add("r5")
	for range 2 {
		set("r4", Removed, Removed, false)
		if c, err := r.Customer("shop"); err != nil || c.Address != next.Address || c.State != Active {
			t.Errorf("the next one with the name: %+v, %v", c, err)
		}
		for _, used := range []string{"r1", "r4"} {
			if _, _, err := r.Set(t.Context(), next.Address.String(), Suspended, used); !errors.Is(err, ErrConflict) {
				t.Errorf("of another, by %s: %v", used, err)
			}
		}
		if _, _, err := r.Add(t.Context(), "other", "", "r4"); !errors.Is(err, ErrConflict) {
			t.Errorf("an add by r4: %v", err)
		}
		r = open(t, store, s1)
	}
	for n := range 3 * recentKept {
		r.changes.add(fmt.Sprint("x", n), change{address: next.Address})
	}
	if n := len(r.changes.of); n > 2*recentKept || n != len(r.changes.order) || r.changes.of[fmt.Sprint("x", 3*recentKept-1)].address != next.Address {
		t.Errorf("%d requests are remembered", n)
	}
}

func TestMove(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	spares(t, s1, 0, 1)
	store := statetest.Open(t, "")
	r := open(t, store, s1, s2)
	shop, _, err := r.Add(t.Context(), "shop", "s1", "")
	if err != nil {
		t.Fatal(err)
	}
	move := func(to string, moves bool) Customer {
		t.Helper()
		c, moved, err := r.Move(t.Context(), "shop", to, "")
		if err != nil || moved != moves {
			t.Fatalf("to %s: %+v, %t, %v", to, c, moved, err)
		}
		return c
	}
	for range 2 {
		if c := move("s2", false); c.Shard != "s1" || c.MovingTo != "s2" {
			t.Errorf("wanted: %+v", c)
		}
	}
	if got := r.shardOf("s2"); got.Pending != 0 { // until it is counted again
		t.Logf("pending %d", got.Pending)
	}
	if s, err := r.Installed(t.Context(), "s2"); err != nil || s != (Shard{Name: "s2"}) {
		t.Errorf("installed: %+v, %v", s, err)
	}
	r = open(t, store, s1, s2) // which leaves the copy where it is
	c := move("s2", true)
	if c.Shard != "s2" || c.MovingTo != "" {
		t.Errorf("moved: %+v", c)
	}
	for range 2 {
		want := []Shard{{Name: "s1", Removed: 1}, {Name: "s2", Active: 1}}
		if got := r.Shards(); !slices.Equal(got, want) {
			t.Errorf("shards %+v, want %+v", got, want)
		}
		if ref, err := r.Reference(shop.Address, ""); err != nil || ref != filepath.Join(s2, "shop") {
			t.Errorf("the key is %q, %v", ref, err)
		}
		r = open(t, store, s1, s2)
	}
	if _, _, err := r.Move(t.Context(), "shop", "s3", ""); !errors.Is(err, ErrNoShard) {
		t.Errorf("to nowhere: %v", err)
	}
}
