package hosting

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// Records of one who has the cluster key and means harm, or of a newer balancer, lead to no
// place outside of a shard's directory, and keep no manager from starting.
func TestSharedHostile(t *testing.T) {
	inClusterOf(t, 2, true, func(t *testing.T, a, b *manager) {
		good, _, err := a.Add(t.Context(), "shop", "", "")
		if err != nil {
			t.Fatal(err)
		}
		home := t.TempDir()
		var bad []descriptor.Address
		for n, name := range []string{"../evil", ".spares/evil", "", "other"} {
			from := fmt.Sprint("k", n)
			is := writeKey(t, uint32(100+n), func(descriptor.Address) string { return filepath.Join(home, from) })
			files, err := (&Dir{home}).pack(from, false, "")
			if err != nil {
				t.Fatal(err)
			}
			c := Customer{Name: name, Address: is, Shard: "s1", State: Active, Added: now(), Since: now()}
			if name == "other" { // of another address than its key says
				c.Address = good.Address
			}
			value, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			bad = append(bad, is)
			if _, err := a.store.Swap(t.Context(), state.Change{Key: keyKey("s1", is), Value: files}, state.Change{Key: state.CustomerKey(is), Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		unread := descriptor.Address{1}
		if _, err := a.store.Swap(t.Context(), state.Change{Key: state.CustomerKey(unread), Value: []byte("[]")}); err != nil {
			t.Fatal(err)
		}
		look := func(when string) {
			t.Helper()
			a.c.settle()
			for _, m := range a.c.managers {
				for _, at := range []string{filepath.Join(m.home, "evil"), filepath.Join(m.dir("s1"), sparesDir, "evil")} {
					if _, err := os.Lstat(at); err == nil {
						t.Errorf("%s: there is %s", when, at)
					}
				}
				for _, is := range bad {
					if c, known := m.Of(is); known {
						t.Errorf("%s: it has the customer %+v", when, c)
					}
				}
			}
			if all := a.c.same(when); len(all) != 1 || all[0] != good {
				t.Errorf("%s: %+v", when, all)
			}
		}
		look("written")
		b.stop()
		b.start(false)
		look("started without the engine")
		b.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		look("joined")
	})
}

// A customer's record that does not open keeps nobody from getting the keys of the others.
func TestSharedDamageOfOne(t *testing.T) {
	inClusterOf(t, 3, true, func(t *testing.T, a, _ *manager) {
		c := a.c
		if _, _, err := a.Add(t.Context(), "shop", "", ""); err != nil {
			t.Fatal(err)
		}
		c.same("added")
		shop, _ := a.Customer("shop")
		_, version, err := a.store.Get(state.CustomerKey(shop.Address))
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range c.engine.Items() {
			if item.Version == int64(version) && len(item.Value) > 0 {
				broken := bytes.Clone(item.Value)
				broken[len(broken)-1] ^= 1
				c.engine.Put(item.Key, broken)
			}
		}
		c.settle()
		late := &manager{c: c, home: t.TempDir(), db: statetest.Open(t, ""), keys: true}
		for _, shard := range []string{"s1", "s2"} {
			if err := os.Mkdir(late.dir(shard), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := late.db.Swap(t.Context(), state.Change{Key: state.CustomerKey(shop.Address), Value: mustJSON(t, shop)}); err != nil {
			t.Fatal(err) // it was there before
		}
		late.start(true)
		c.managers = append(c.managers, late)
		c.settle()
		if got := late.shardOf("s1"); got.Spares != 2 {
			t.Errorf("the one that came late has %+v", got)
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A key that could not be shared when it was made is shared later.
func TestSharedKeyLater(t *testing.T) {
	inClusterOf(t, 1, true, func(t *testing.T, a, b *manager) {
		if _, err := (&Dir{a.dir("s1")}).NewKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		for _, sub := range []string{".", sparesDir, pendingDir, removedDir} {
			if err := os.Chtimes(filepath.Join(a.dir("s1"), sub), old, old); err != nil && sub != removedDir {
				t.Fatal(err)
			}
		}
		a.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		if err := a.Refresh(t.Context()); err != nil {
			t.Log(err)
		}
		a.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		a.c.settle()
		if err := a.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		a.c.settle()
		if got := b.shardOf("s1"); got.Pending != 1 {
			t.Errorf("b has %+v", got)
		}
	})
}

// A customer whose record was lost while nothing could be written is written again.
func TestSharedLostLater(t *testing.T) {
	inClusterOf(t, 1, true, func(t *testing.T, a, b *manager) {
		shop, _, err := a.Add(t.Context(), "shop", "", "")
		if err != nil {
			t.Fatal(err)
		}
		a.c.settle()
		key := state.CustomerKey(shop.Address)
		_, version, err := a.store.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.c.managers {
			_ = m
		}
		for _, item := range a.c.engine.Items() {
			if item.Version == int64(version) && len(item.Value) > 0 {
				a.c.engine.Put(item.Key, nil)
			}
		}
		a.c.settle()
		a.c.engine.Full(false)
		for _, m := range a.c.managers {
			if err := m.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		}
		a.c.settle()
		if _, version, err := b.store.Get(key); err != nil || version == 0 {
			t.Errorf("version %d, %v", version, err)
		}
	})
}

// While nothing can be stored, many keys that are to be shared hold nobody up for long.
func TestSharedKeysWithoutEngine(t *testing.T) {
	inClusterOf(t, 1, true, func(t *testing.T, a, b *manager) {
		const count = 4 * sharedAtOnce
		for range count {
			if _, err := (&Dir{a.dir("s1")}).NewKey(rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		a.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		began := time.Now()
		_ = a.Refresh(t.Context())
		if took := time.Since(began); took > sharedTimeout {
			t.Errorf("it took %s", took)
		}
		a.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		a.c.settle()
		if err := a.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		a.c.settle()
		if got := b.shardOf("s1"); got.Pending != count {
			t.Errorf("b has %+v", got)
		}
	})
}

// When removed customers cannot be forgotten for want of a store, all of them can be changed
// afterwards.
func TestForgetWithoutEngine(t *testing.T) {
	const count = sharedAtOnce + 1
	inClusterOf(t, count, true, func(t *testing.T, a, b *manager) {
		var list []descriptor.Address
		for n := range count {
			c, _, err := a.Add(t.Context(), fmt.Sprint("c", n), "", "")
			if err == nil {
				_, _, err = a.Set(t.Context(), c.Name, Removed, "")
			}
			if err == nil {
				err = (&Dir{a.dir("s1")}).Erase(c.Address)
			}
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, c.Address)
		}
		time.Sleep(keptRemoved)
		a.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		if err := a.Configure(t.Context(), map[string]string{"s1": a.dir("s1")}); err == nil {
			t.Error("forgotten without the engine")
		}
		a.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		a.c.settle()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, is := range list {
			if _, _, err := a.Set(ctx, is.String(), Removed, ""); err != nil {
				t.Fatal(err)
			}
		}
		configure(t, a.Registry, a.dir("s1"), a.dir("s2"))
		a.c.settle()
		if len(a.All())+len(b.All()) != 0 {
			t.Errorf("%d and %d are left", len(a.All()), len(b.All()))
		}
	})
}
