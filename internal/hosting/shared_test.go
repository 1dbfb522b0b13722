package hosting

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// clustered are managers of a cluster, in a bubble.
type clustered struct {
	t        *testing.T
	engine   *clustertest.Fake
	key      *cluster.Key
	managers []*manager
}

// manager is one of them, with directories of its own.
type manager struct {
	*Registry
	c      *clustered
	home   string // of the directories s1 and s2
	db     *state.DB
	client *clustertest.Client
	store  *cluster.Store
	keys   bool // share_keys
	stop   func()
}

// inCluster runs a test with two managers: both have the keys of spares, and each what it
// gets; then one alone has them, and they share keys.
func inCluster(t *testing.T, count int, test func(t *testing.T, a, b *manager)) {
	t.Run("keys apart", func(t *testing.T) { inClusterOf(t, count, false, test) })
	t.Run("keys shared", func(t *testing.T) { inClusterOf(t, count, true, test) })
}

func inClusterOf(t *testing.T, count int, keys bool, test func(t *testing.T, a, b *manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &clustered{t: t, engine: clustertest.New(), key: cluster.NewKey()}
		for n := range 2 {
			m := &manager{c: c, home: t.TempDir(), db: statetest.Open(t, ""), keys: keys}
			for _, shard := range []string{"s1", "s2"} {
				if err := os.Mkdir(m.dir(shard), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if n == 0 || !keys {
				spares(t, m.dir("s1"), 0, count)
			}
			m.start(true)
			c.managers = append(c.managers, m)
		}
		c.settle()
		test(t, c.managers[0], c.managers[1])
		for _, m := range c.managers {
			m.stop()
		}
	})
}

func (m *manager) dir(shard string) string { return filepath.Join(m.home, shard) }

// start starts a manager, perhaps one that cannot reach the engine.
func (m *manager) start(connected bool) {
	t := m.c.t
	m.client = m.c.engine.Client()
	m.client.Set(func(f *clustertest.Faults) { f.Cut = !connected })
	var err error
	if m.store, err = cluster.Open(cluster.Config{Engine: m.client, Key: m.c.key, Name: "main"}); err != nil {
		t.Fatal(err)
	}
	shared := cluster.NewCopied(m.store, m.db, slog.New(slog.DiscardHandler))
	if m.Registry, err = Open(shared, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		t.Fatal(err)
	}
	shared.Subscribe(state.CustomerPrefix, m.Note)
	if m.keys {
		m.ShareKeys()
		shared.Subscribe(KeyPrefix, m.NoteKeys)
	}
	configure(t, m.Registry, m.dir("s1"), m.dir("s2"))
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { shared.Run(ctx) })
	wait.Go(func() {
		joined := make(chan struct{}, 1)
		if shared.Wait(ctx) == nil {
			joined <- struct{}{}
		}
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-joined:
			case <-m.Noted():
			}
			if _, err := m.Hear(ctx); err != nil && ctx.Err() == nil {
				t.Log("hearing:", err)
			}
		}
	})
	m.stop = func() {
		cancel()
		wait.Wait()
		m.store.Close()
	}
}

// settle waits until everybody knows everything.
func (c *clustered) settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

// same looks whether managers have the same customers, with their keys in place.
func (c *clustered) same(when string) []Customer {
	c.t.Helper()
	c.settle()
	all := c.managers[0].All()
	for n, m := range c.managers {
		if list := m.All(); !slices.Equal(list, all) {
			c.t.Errorf("%s: manager %d has %+v, the first %+v", when, n, list, all)
		}
		served := map[string]int{}
		for _, customer := range all {
			d := Dir{m.dir(customer.Shard)}
			sub := customer.Name
			if customer.State == Removed {
				sub = filepath.Join(removedDir, customer.Address.Label())
			} else {
				served[customer.Shard]++
			}
			if is, err := d.Address(sub); err != nil || is != customer.Address {
				c.t.Errorf("%s: manager %d has another key in %s: %v, %v", when, n, sub, is.Short(), err)
			}
			if ref, err := m.Reference(customer.Address, ""); err != nil || ref != filepath.Join(m.dir(customer.Shard), sub) {
				c.t.Errorf("%s: manager %d opens %s, %v", when, n, ref, err)
			}
		}
		for _, s := range m.Shards() {
			d := Dir{m.dir(s.Name)}
			list, err := d.Spares()
			if s.Active+s.Suspended != served[s.Name] || s.Spares != len(list) || err != nil {
				c.t.Errorf("%s: manager %d counts %+v; %d are served, %d spares, %v", when, n, s, served[s.Name], len(list), err)
			}
		}
	}
	return all
}

// Whatever one manager is asked to do with customers shows at the other, keys included.
func TestShared(t *testing.T) {
	inCluster(t, 4, func(t *testing.T, a, b *manager) {
		c := a.c
		shop, _, err := a.Add(t.Context(), "shop", "", "r1")
		if err != nil {
			t.Fatal(err)
		}
		c.same("added")
		if again, added, err := b.Add(t.Context(), "shop", "", "r1"); err != nil || added || again != shop {
			t.Errorf("asked at the other: %+v, %t, %v", again, added, err)
		}
		if _, _, err := b.Add(t.Context(), "other", "", "r1"); !errors.Is(err, ErrConflict) {
			t.Errorf("the same request for another name: %v", err)
		}
		suspended, changed, err := b.Set(t.Context(), "shop", Suspended, "r2")
		if err != nil || !changed {
			t.Errorf("suspended: %t, %v", changed, err)
		}
		c.same("suspended")
		if again, changed, err := a.Set(t.Context(), "shop", Suspended, "r2"); err != nil || changed || again != suspended {
			t.Errorf("the same at the other: %+v, %t, %v", again, changed, err)
		}
		if _, err := b.Confirm(t.Context(), suspended); err != nil {
			t.Error(err)
		}
		if list := c.same("confirmed"); len(list) != 1 || list[0].Confirmed.IsZero() {
			t.Errorf("%+v", list)
		}
		if _, _, err := a.Set(t.Context(), "shop", Removed, ""); err != nil {
			t.Error(err)
		}
		c.same("removed")
		if _, _, err = b.Add(t.Context(), "shop", "", ""); err != nil {
			t.Errorf("another of that name: %v", err)
		}
		c.same("added again")

		// To another shard, whose replicas know it once that is said at each manager.
		if c, moved, err := a.Move(t.Context(), "shop", "s2", ""); err != nil || moved || c.MovingTo != "s2" {
			t.Fatalf("%+v, %t, %v", c, moved, err)
		}
		c.same("to be moved")
		if _, err := a.Installed(t.Context(), "s2"); err != nil {
			t.Error(err)
		}
		if _, moved, err := a.Move(t.Context(), "shop", "s2", ""); err != nil || !moved {
			t.Errorf("%t, %v", moved, err)
		}
		c.same("moved")
		if removed, err := (&Dir{b.dir("s1")}).Removed(); err != nil || len(removed) != 2 {
			t.Errorf("in the shard that it left: %v, %v", removed, err)
		}

		// An operator renames a directory at one of them.
		if err := os.Rename(filepath.Join(a.dir("s2"), "shop"), filepath.Join(a.dir("s2"), "store")); err != nil {
			t.Fatal(err)
		}
		configure(t, a.Registry, a.dir("s1"), a.dir("s2"))
		if list := c.same("renamed"); list[0].Name != "store" && list[1].Name != "store" {
			t.Errorf("%+v", list)
		}
		if _, err := b.Customer("shop"); err == nil {
			if got, _ := b.Customer("shop"); got.State != Removed {
				t.Error("it is still called so")
			}
		}
	})
}

// Two managers at the same time: no spare is given twice, no name and no request counts
// twice.
func TestSharedAtOnce(t *testing.T) {
	const names = 12
	inCluster(t, 2*names, func(t *testing.T, a, b *manager) {
		type answer struct {
			Customer
			added bool
		}
		answers := make([][]answer, names)
		var mu sync.Mutex
		var wait sync.WaitGroup
		for n := range names {
			for _, m := range []*manager{a, b, a, b} {
				wait.Go(func() {
					name, request := fmt.Sprintf("c%02d", n), ""
					if n%2 == 1 {
						name, request = "", fmt.Sprintf("r%02d", n)
					}
					c, added, err := m.Add(t.Context(), name, "", request)
					if err != nil {
						t.Errorf("%s %s: %v", name, request, err)
					}
					mu.Lock()
					defer mu.Unlock()
					answers[n] = append(answers[n], answer{c, added})
				})
			}
		}
		wait.Wait()
		all := a.c.same("added")
		if len(all) != names {
			t.Errorf("%d customers, want %d", len(all), names)
		}
		for n, list := range answers {
			added := 0
			for _, got := range list {
				if got.Customer != list[0].Customer {
					t.Errorf("%d: %+v and %+v", n, got.Customer, list[0].Customer)
				}
				if got.added {
					added++
				}
			}
			if added == 0 { // in one virtual moment, two may have added the same
				t.Errorf("%d: not added", n)
			}
		}
		// Changes at the same time: both are made, one after the other.
		for _, c := range all {
			for n, m := range []*manager{a, b} {
				wait.Go(func() {
					if _, _, err := m.Set(t.Context(), c.Name, []State{Suspended, Removed}[n], fmt.Sprint("s", n, c.Name)); err != nil && !errors.Is(err, ErrRemoved) {
						t.Error(err)
					}
				})
			}
		}
		wait.Wait()
		for _, c := range a.c.same("removed") {
			if c.State != Removed {
				t.Errorf("%+v", c)
			}
		}
	})
}

// Answers that are lost: asked again, at either manager, it is the same customer.
func TestSharedLostAnswers(t *testing.T) {
	inCluster(t, 6, func(t *testing.T, a, b *manager) {
		for n, faults := range []clustertest.Faults{{LoseAnswers: 1}, {LoseRequests: 1}, {LoseAnswers: 2}, {LoseRequests: 2}} {
			name := fmt.Sprint("c", n)
			a.client.Set(func(f *clustertest.Faults) { f.LoseAnswers, f.LoseRequests = faults.LoseAnswers, faults.LoseRequests })
			first, _, err := a.Add(t.Context(), name, "", name)
			t.Logf("%+v: %v", faults, err)
			a.client.Set(func(f *clustertest.Faults) { f.LoseAnswers, f.LoseRequests = 0, 0 })
			second, _, failed := b.Add(t.Context(), name, "", name)
			if failed != nil || err == nil && first != second {
				t.Errorf("%+v: %+v (%v), then %+v (%v)", faults, first, err, second, failed)
			}
			if third, added, err := a.Add(t.Context(), name, "", name); err != nil || added || third != second {
				t.Errorf("%+v: at last %+v, %t, %v", faults, third, added, err)
			}
		}
		if err := a.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if all := a.c.same("added"); len(all) != 4 {
			t.Errorf("%d customers", len(all))
		}
	})
}

// A manager that starts without the engine has the customers that it knows, changes none, and
// catches up; what it does not know is not taken for the operator's.
func TestSharedWithoutEngine(t *testing.T) {
	inCluster(t, 6, func(t *testing.T, a, b *manager) {
		for _, name := range []string{"stays", "goes", "moves"} {
			if _, _, err := a.Add(t.Context(), name, "", ""); err != nil {
				t.Fatal(err)
			}
		}
		a.c.same("added")
		b.stop()
		// Meanwhile.
		if _, _, err := a.Set(t.Context(), "goes", Removed, ""); err != nil {
			t.Error(err)
		}
		if _, _, err := a.Set(t.Context(), "stays", Suspended, ""); err != nil {
			t.Error(err)
		}
		if _, _, err := a.Add(t.Context(), "new", "", ""); err != nil {
			t.Error(err)
		}
		if err := os.Rename(filepath.Join(a.dir("s1"), "moves"), filepath.Join(a.dir("s1"), "moved")); err != nil {
			t.Fatal(err)
		}
		configure(t, a.Registry, a.dir("s1"), a.dir("s2"))

		b.start(false)
		b.c.settle()
		if c, err := b.Customer("stays"); err != nil || c.State != Active || len(b.All()) != 3 {
			t.Errorf("without the engine: %+v, %v", c, err)
		}
		if _, _, err := b.Add(t.Context(), "early", "", ""); !errors.Is(err, cluster.ErrUnread) {
			t.Errorf("added without the engine: %v", err)
		}
		if _, _, err := b.Set(t.Context(), "stays", Removed, ""); !errors.Is(err, cluster.ErrUnread) {
			t.Errorf("removed without the engine: %v", err)
		}
		b.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		if all := b.c.same("again"); len(all) != 4 {
			t.Errorf("%d customers", len(all))
		}
	})
}

// A record that does not open leaves its customer as it was; one that was lost is written
// again, unless its customer was removed.
func TestSharedDamage(t *testing.T) {
	inCluster(t, 3, func(t *testing.T, a, b *manager) {
		if _, _, err := a.Add(t.Context(), "shop", "", ""); err != nil {
			t.Fatal(err)
		}
		a.c.same("added")
		c, _ := a.Customer("shop")
		key := state.CustomerKey(c.Address)
		_, version, err := a.store.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		var damaged []string
		for _, item := range a.c.engine.Items() {
			if item.Version == int64(version) {
				damaged = append(damaged, item.Key)
				broken := bytes.Clone(item.Value)
				broken[len(broken)-1] ^= 1
				a.c.engine.Put(item.Key, broken)
			}
		}
		a.c.settle()
		if now, err := b.Customer("shop"); err != nil || now != c {
			t.Errorf("damaged: %+v, %v", now, err)
		}
		if n := a.store.Stats().Damaged; n == 0 || n != len(damaged) {
			t.Fatalf("%d are damaged of %d", n, len(damaged))
		}
		for _, name := range damaged { // an operator deletes them
			a.c.engine.Put(name, nil)
		}
		a.c.settle()
		for _, m := range a.c.managers { // the name may have been seen to be gone after the customer
			if err := m.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if all := a.c.same("lost"); len(all) != 1 || all[0] != c {
			t.Errorf("%+v", all)
		}
		if _, version, err := a.store.Get(key); err != nil || version == 0 {
			t.Errorf("it was not written again: %d, %v", version, err)
		}
		// Removed, and erased long after.
		if _, _, err := b.Set(t.Context(), "shop", Removed, ""); err != nil {
			t.Error(err)
		}
		a.c.same("removed")
		if err := (&Dir{a.dir("s1")}).Erase(c.Address); err != nil {
			t.Error(err)
		}
		if err := a.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if len(a.All()) != 1 {
			t.Error("forgotten at once")
		}
		time.Sleep(keptRemoved)
		configure(t, a.Registry, a.dir("s1"), a.dir("s2"))
		a.c.settle()
		if len(a.All()) != 0 || len(b.All()) != 0 {
			t.Errorf("not forgotten: %d, %d", len(a.All()), len(b.All()))
		}
		for _, m := range a.c.managers { // a's was erased by who told the replicas
			if list, err := (&Dir{m.dir("s1")}).Removed(); err != nil || len(list) != 0 {
				t.Errorf("left in %s: %v, %v", m.dir("s1"), list, err)
			}
		}
		if names, err := a.store.List("customer"); err != nil || len(names) != 0 {
			t.Errorf("left are %+v, %v", names, err)
		}
	})
}

// Keys come to every manager's directories, readable by nobody else, and go from the store
// with the customer.
func TestSharedKeys(t *testing.T) {
	inClusterOf(t, 2, true, func(t *testing.T, a, b *manager) {
		c := a.c
		for _, dir := range []string{".spares", ".pending"} {
			if list, err := (&Dir{b.dir("s1")}).labels(dir); err != nil || len(list) != map[string]int{".spares": 2}[dir] {
				t.Errorf("b has %d in %s, %v", len(list), dir, err)
			}
		}
		// Another process makes more.
		pending, err := (&Dir{a.dir("s1")}).NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		refresh := func() {
			t.Helper()
			for _, m := range c.managers {
				if err := m.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			}
			c.settle()
		}
		refresh()
		if got := b.shardOf("s1"); got.Pending != 1 || got.Spares != 2 {
			t.Errorf("b has %+v", got)
		}
		err = filepath.WalkDir(b.dir("s1"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %o", path, info.Mode().Perm())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := b.Installed(t.Context(), "s1"); err != nil {
			t.Error(err)
		}
		c.settle()
		if got := a.shardOf("s1"); got.Pending != 0 || got.Spares != 3 {
			t.Errorf("installed at b, and a has %+v", got)
		}
		var addresses []descriptor.Address
		for n := range 3 {
			customer, _, err := []*manager{a, b, a}[n].Add(t.Context(), fmt.Sprint("c", n), "", "")
			if err != nil {
				t.Fatal(err)
			}
			addresses = append(addresses, customer.Address)
			c.settle()
		}
		if !slices.Contains(addresses, pending) {
			t.Error("the new key was not taken")
		}
		c.same("added")
		// One who comes later has them all.
		third := &manager{c: c, home: t.TempDir(), db: statetest.Open(t, ""), keys: true}
		for _, shard := range []string{"s1", "s2"} {
			if err := os.Mkdir(third.dir(shard), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		third.start(true)
		c.managers = append(c.managers, third)
		c.same("a third")
		if w := third.warnings(); len(w) != 2 { // no spares
			t.Errorf("the third warns: %q", w)
		}
		var all []byte
		for _, item := range c.engine.Items() {
			all = append(append(all, item.Key...), item.Value...)
		}
		if found := clustertest.Readable(all, addresses, []string{"hs_ed25519_secret_key", "ed25519v1-secret"}); len(found) > 0 {
			t.Errorf("in the engine one can read %q", found)
		}
		// One that was lost here comes again; a removed one does not.
		if err := os.RemoveAll(filepath.Join(b.dir("s1"), "c1")); err != nil {
			t.Fatal(err)
		}
		configure(t, b.Registry, b.dir("s1"), b.dir("s2"))
		c.same("lost")
		if _, _, err := a.Set(t.Context(), "c1", Removed, ""); err != nil {
			t.Error(err)
		}
		c.same("removed")
		refresh()
		if list, err := a.store.List(KeyPrefix); err != nil || len(list) != 2 {
			t.Errorf("the store has %d keys, %v", len(list), err)
		}
	})
}
