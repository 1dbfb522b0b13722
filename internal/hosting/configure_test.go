package hosting

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state/statetest"
)

// called returns a place for writeKey: a directory of the shard with a name.
func called(shard, name string) func(descriptor.Address) string {
	return func(descriptor.Address) string { return filepath.Join(shard, name) }
}

// Customers brought along are adopted, and have their places after a move by hand.
func TestAdopt(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	a, b := writeKey(t, 1, called(s1, "a")), writeKey(t, 2, called(s1, "b"))
	writeKey(t, 3, called(s2, "a")) // the name is taken by one of s1
	store := statetest.Open(t, "")
	r := open(t, store, s1, s2)
	all := func() (list []string) {
		for _, c := range r.All() {
			list = append(list, c.Name+" "+c.Shard+" "+string(c.State))
		}
		slices.Sort(list)
		return list
	}
	want := func(when string, want ...string) {
		t.Helper()
		if got := all(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	want("at first", "a s1 active", "b s1 active")
	if w := strings.Join(r.warnings(), "\n"); !strings.Contains(w, "a is left out") {
		t.Errorf("warnings: %s", w)
	}
	if _, _, err := r.Set(t.Context(), "b", Suspended, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s1, "b"), filepath.Join(s2, "c")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s2, "a"), filepath.Join(s2, "d")); err != nil {
		t.Fatal(err)
	}
	configure(t, r, s1, s2)
	want("moved by hand", "a s1 active", "c s2 suspended", "d s2 active")
	if c, err := r.Customer("c"); err != nil || c.Address != b {
		t.Errorf("c is %+v, %v", c, err)
	}
	if _, err := r.Customer("b"); err == nil {
		t.Error("the old name is known")
	}
	// A key that is gone is warned of; nothing is forgotten.
	if err := os.Rename(filepath.Join(s1, "a"), filepath.Join(s1, ".a")); err != nil {
		t.Fatal(err)
	}
	r = open(t, store, s1, s2)
	want("without a key", "a s1 active", "c s2 suspended", "d s2 active")
	if w := strings.Join(r.warnings(), "\n"); !strings.Contains(w, "no key is in "+s1+" for a") {
		t.Errorf("warnings: %s", w)
	}
	// Nor is anything if a directory cannot be read, or a shard leaves the configuration.
	r = open(t, store, s2, filepath.Join(t.TempDir(), "s1"))
	want("without a directory", "a s1 active", "c s2 suspended", "d s2 active")
	if _, err := r.Reference(a, ""); err == nil {
		t.Error("there is a reference to a key of a shard without directory")
	}
	r = open(t, store)
	want("without shards", "a s1 active", "c s2 suspended", "d s2 active")
	// Without the records all are active.
	if err := os.Rename(filepath.Join(s1, ".a"), filepath.Join(s1, "a")); err != nil {
		t.Fatal(err)
	}
	r = open(t, statetest.Open(t, ""), s1, s2)
	want("without records", "a s1 active", "c s2 active", "d s2 active")
}

// What a kill interrupted is finished: the key of one whose record is stored is a spare
// still, that of a removed one has its name still, that of one who moved is in both shards.
func TestHeal(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	spares(t, s1, 0, 3)
	store := statetest.Open(t, "")
	r := open(t, store, s1, s2)
	d1, err := OpenDir(s1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"added", "removed", "moved"} {
		if _, _, err := r.Add(t.Context(), name, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	added, _ := r.Customer("added")
	removed, _, _ := r.Set(t.Context(), "removed", Removed, "")
	if _, _, err := r.Move(t.Context(), "moved", "s2", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Installed(t.Context(), "s2"); err != nil {
		t.Fatal(err)
	}
	moved, done, err := r.Move(t.Context(), "moved", "s2", "")
	if err != nil || !done {
		t.Fatal(moved, err)
	}
	healed := d1.tree(t)
	for from, to := range map[string]string{"added": sparesDir + "/" + added.Address.Label(), removedDir + "/" + removed.Address.Label(): "removed", removedDir + "/" + moved.Address.Label(): "moved"} {
		if err := os.Rename(filepath.Join(s1, from), filepath.Join(s1, to)); err != nil {
			t.Fatal(err)
		}
	}
	counts := r.Shards()
	for range 2 {
		r = open(t, store, s1, s2)
		if got := d1.tree(t); !slices.Equal(got, healed) {
			t.Errorf("the directory has %q, want %q", got, healed)
		}
		if got := r.Shards(); !slices.Equal(got, counts) || len(r.All()) != 3 {
			t.Errorf("shards %+v, want %+v", got, counts)
		}
	}
}

// A key that lies among the spares of two shards is given once.
func TestSpareOfTwoShards(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	const keys = 16
	spares(t, s1, 0, keys)
	spares(t, s2, 0, keys)
	r := open(t, statetest.Open(t, ""), s1, s2)
	seen := map[descriptor.Address]bool{}
	for range keys {
		c, _, err := r.Add(t.Context(), "", "", "")
		if err != nil || seen[c.Address] {
			t.Errorf("%+v, %v", c, err)
		}
		seen[c.Address] = true
	}
	if c, _, err := r.Add(t.Context(), "", "", ""); err == nil {
		t.Errorf("one more: %+v", c)
	}
}

// A shard that is called otherwise from a reload on keeps its customers, whatever their state.
func TestRenamedShard(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	spares(t, s1, 0, 3)
	r := open(t, statetest.Open(t, ""), s1, s2)
	for name, to := range map[string]State{"active": Active, "suspended": Suspended} {
		if _, _, err := r.Add(t.Context(), name, "s1", ""); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Set(t.Context(), name, to, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Configure(t.Context(), map[string]string{"other": s1, "s2": s2}); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.All() {
		if ref, err := r.Reference(c.Address, ""); c.Shard != "other" || err != nil || ref != filepath.Join(s1, c.Name) {
			t.Errorf("%+v: its key is %q, %v", c, ref, err)
		}
	}
	if s := r.shardOf("other"); s.Active != 1 || s.Suspended != 1 || s.Spares != 1 {
		t.Errorf("%+v; warnings %q", s, r.warnings())
	}
}

// Warnings, which the log has as well, name nobody by the whole address.
func TestCalled(t *testing.T) {
	s1 := shardDir(t, "s1")
	spares(t, s1, 0, 2)
	store := statetest.Open(t, "")
	r := open(t, store, s1)
	for _, name := range []string{"", "shop"} {
		c, _, err := r.Add(t.Context(), name, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(s1, c.Name)); err != nil {
			t.Fatal(err)
		}
		w := strings.Join(open(t, store, s1).warnings(), "\n")
		want := name
		if want == "" {
			want = c.Address.Short()
		}
		if !strings.Contains(w, want) || strings.Contains(w, c.Address.Label()) {
			t.Errorf("%q: %s", name, w)
		}
	}
}
