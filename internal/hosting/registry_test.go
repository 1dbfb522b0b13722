package hosting

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// writeKey writes the nth key of a test into a directory, unsynced.
func writeKey(t testing.TB, n uint32, dir func(descriptor.Address) string) descriptor.Address {
	t.Helper()
	key, err := descriptor.IdentityKeyFromSeed(binary.BigEndian.AppendUint32(make([]byte, 28), n))
	if err != nil {
		t.Fatal(err)
	}
	path := dir(key.Address())
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	content := append([]byte("== ed25519v1-secret: type0 ==\x00\x00\x00"), key.Expanded()...)
	if err := os.WriteFile(filepath.Join(path, torKey), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return key.Address()
}

// spares makes count spares, from the nth key on.
func spares(t testing.TB, shard string, n, count int) (list []descriptor.Address) {
	t.Helper()
	for i := range count {
		list = append(list, writeKey(t, uint32(n+i), func(a descriptor.Address) string { return filepath.Join(shard, sparesDir, a.Label()) }))
	}
	return list
}

// open opens a registry of the shards whose directories are given, called as these are.
func open(t testing.TB, store Store, dirs ...string) *Registry {
	t.Helper()
	r, err := Open(store, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	configure(t, r, dirs...)
	return r
}

func configure(t testing.TB, r *Registry, dirs ...string) {
	t.Helper()
	shards := map[string]string{}
	for _, dir := range dirs {
		shards[filepath.Base(dir)] = dir
	}
	if err := r.Configure(t.Context(), shards); err != nil {
		t.Fatal(err)
	}
}

// shardDir makes the directory of a shard.
func shardDir(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shardOf returns the counts of one shard.
func (r *Registry) shardOf(name string) Shard {
	for _, s := range r.Shards() {
		if s.Name == name {
			return s
		}
	}
	return Shard{}
}

// warnings are those of all shards.
func (r *Registry) warnings() (list []string) {
	for _, s := range r.Shards() {
		list = append(list, r.Warnings(s.Name)...)
	}
	return list
}

func TestAdd(t *testing.T) {
	s1, s2 := shardDir(t, "s1"), shardDir(t, "s2")
	spares(t, s1, 0, 3)
	spares(t, s2, 10, 2)
	r := open(t, statetest.Open(t, ""), s1, s2)
	add := func(name, shard, request string) Customer {
		t.Helper()
		c, added, err := r.Add(t.Context(), name, shard, request)
		if err != nil || !added {
			t.Fatalf("adding %q: %+v, %t, %v", name, c, added, err)
		}
		return c
	}
	shop := add("shop", "", "r1")
	if shop.Shard != "s1" || shop.State != Active || shop.Added.IsZero() || shop.Request != "r1" {
		t.Errorf("added %+v", shop)
	}
	if _, err := os.Stat(filepath.Join(s1, "shop", torKey)); err != nil {
		t.Error(err)
	}
	nobody := add("", "s2", "")
	if nobody.Name != nobody.Address.Label() {
		t.Errorf("without a name it is called %q", nobody.Name)
	}
	for _, again := range []struct{ name, shard, request string }{{"shop", "", "r1"}, {"shop", "s1", ""}, {"shop", "", "other"}} {
		if c, added, err := r.Add(t.Context(), again.name, again.shard, again.request); err != nil || added || c != shop {
			t.Errorf("again, as %+v: %+v, %t, %v", again, c, added, err)
		}
	}
	for _, test := range []struct {
		name, shard, request string
		want                 error
	}{
		{"other", "", "r1", ErrConflict},
		{"", "", "r1", ErrConflict},
		{"shop", "s2", "r2", ErrTaken},
		{"x", "s3", "", ErrNoShard},
		{".x", "", "", ErrName},
		{"a/b", "", "", ErrName},
		{nobody.Address.Label(), "", "", ErrName},
		{strings.Repeat("x", 129), "", "", ErrName},
	} {
		if _, _, err := r.Add(t.Context(), test.name, test.shard, test.request); !errors.Is(err, test.want) {
			t.Errorf("adding %+v: %v", test, err)
		}
	}
	add("x", "s2", "")
	if _, _, err := r.Add(t.Context(), "y", "s2", ""); !errors.Is(err, ErrNoSpare) {
		t.Errorf("without a spare: %v", err)
	}
	// A directory that no record knows is nobody else's, and the spare is free again.
	if err := os.Mkdir(filepath.Join(s1, "strange"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Add(t.Context(), "strange", "s1", ""); !errors.Is(err, ErrTaken) {
		t.Errorf("over a directory: %v", err)
	}
	want := []Shard{{Name: "s1", Active: 1, Spares: 2}, {Name: "s2", Active: 2}}
	if got := r.Shards(); !slices.Equal(got, want) {
		t.Errorf("shards %+v, want %+v", got, want)
	}
	if w := strings.Join(r.warnings(), "\n"); !strings.Contains(w, "no spare key, so") || !strings.Contains(w, "only 2 spare keys left") {
		t.Errorf("warnings: %s", w)
	}
}

// failing is a store whose writes or reads fail while they should.
type failing struct {
	*state.DB
	mu            sync.Mutex
	writes, reads error
	late          bool // a write that fails is made all the same
}

func (f *failing) fail(writes, reads error, late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes, f.reads, f.late = writes, reads, late
}
