package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// withCopies runs a Copied over a store until stop is called.
func withCopies(t *testing.T, store *cluster.Store, db *state.DB) (c *cluster.Copied, told func() []state.Key, stop func()) {
	t.Helper()
	c = cluster.NewCopied(store, db, slog.New(slog.NewTextHandler(t.Output(), nil)))
	var mu sync.Mutex
	var all []state.Key
	c.Subscribe("operator/", func(changed []state.Key) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, changed...)
	})
	told = func() []state.Key {
		mu.Lock()
		defer mu.Unlock()
		defer func() { all = nil }()
		slices.Sort(all)
		return slices.Compact(all)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	return c, told, func() { cancel(); <-done }
}

// What this manager had before it was in a cluster is brought along, once; what the others
// change is copied, and is there when it starts without the engine.
func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, db := clustertest.New(), statetest.Open(t, "")
		b := open(t, f.Client(), nil)
		theirs := mustSwap(t, b, state.Change{Key: "operator/both", Value: []byte("theirs")})
		mustSwap(t, db, state.Change{Key: "operator/both", Value: []byte("mine")}, state.Change{Key: "operator/own", Value: []byte("mine")},
			state.Change{Key: "service/own", Value: []byte("mine")})

		client := f.Client()
		a := open(t, client, nil)
		c, told, stop := withCopies(t, a, db)
		soon()
		want(t, c, "operator/both", "theirs", theirs[0])
		value, version, err := b.Get("operator/own")
		if string(value) != "mine" || err != nil {
			t.Errorf("brought along: %q, %v", value, err)
		}
		if _, there, _ := b.Get("service/own"); there != 0 {
			t.Error("the record of a service was brought along")
		}
		if got := told(); !slices.Contains(got, "operator/both") || !slices.Contains(got, "operator/own") {
			t.Errorf("told of %q", got)
		}
		mustSwap(t, b, state.Change{Key: "operator/later", Value: []byte("theirs")})
		soon()
		if got := told(); !slices.Equal(got, []state.Key{"operator/later"}) {
			t.Errorf("told of %q", got)
		}
		stop()
		a.Close()

		// It starts while the engine does not answer.
		client = f.Client()
		client.Set(func(f *clustertest.Faults) { f.Cut = true })
		a = openNow(t, client, func(c *cluster.Config) { c.ID = b.ID() })
		c, told, stop = withCopies(t, a, db)
		list, err := c.List("operator/")
		if len(list) != 3 || err != nil || string(list[1].Value) != "theirs" || list[1].Key != "operator/later" {
			t.Errorf("copies: %+v, %v", list, err)
		}
		_, err = c.Swap(t.Context(), state.Change{Key: "operator/later", Version: list[1].Version, Value: []byte("x")})
		wantErr(t, "storing while nothing was read", err, cluster.ErrUnread)
		mustSwap(t, b, state.Change{Key: "operator/own", Version: version}) // "ready"
		soon()
		client.Set(func(f *clustertest.Faults) { f.Cut = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := told(); !slices.Equal(got, []state.Key{"operator/both", "operator/later", "operator/own"}) {
			t.Errorf("told of %q", got)
		}
		for _, store := range []store{b, c, db} {
			if _, there, err := store.Get("operator/own"); there != 0 || err != nil {
				t.Errorf("what was taken back is there again: %d, %v", there, err)
			}
		}
		_, err = c.Swap(t.Context(), state.Change{Key: "operator/later", Version: list[1].Version, Value: []byte("x")})
		wantErr(t, "storing with the version of a copy", err, state.ErrConflict)
		stop()
	})
}

// A record that does not open leaves its copy alone.
func TestCopyOfDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, db := clustertest.New(), statetest.Open(t, "")
		a := open(t, f.Client(), nil)
		c, _, stop := withCopies(t, a, db)
		soon()
		mustSwap(t, c, state.Change{Key: "operator/1", Value: []byte("1")})
		soon()
		items := f.Items()
		i := slices.IndexFunc(items, func(i cluster.Item) bool { return !strings.HasSuffix(i.Key, "/layout") })
		broken := bytes.Clone(items[i].Value)
		broken[len(broken)-1] ^= 1
		f.Put(items[i].Key, broken)
		soon()
		if _, _, err := c.Get("operator/1"); err == nil {
			t.Error("it opens")
		}
		if value, _, err := db.Get("operator/1"); string(value) != "1" || err != nil {
			t.Errorf("the copy is %q, %v", value, err)
		}
		stop()
	})
}

// A store that lost everything gets the copies back, also from a manager that has never
// read it.
func TestRestoreCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, db := clustertest.New(), statetest.Open(t, "")
		a := open(t, f.Client(), nil)
		c, _, stop := withCopies(t, a, db)
		soon()
		mustSwap(t, c, state.Change{Key: "operator/1", Value: []byte("1")}, state.Change{Key: "customer/1", Value: []byte("c")})
		soon()
		id := a.ID()
		stop()
		a.Close()
		f.Wipe()
		client := f.Client()
		a = openNow(t, client, func(c *cluster.Config) { c.ID = id })
		c, _, stop = withCopies(t, a, db)
		defer stop()
		soon()
		wantErr(t, "wiped", a.Err(), cluster.ErrWiped)
		if value, _, err := c.Get("operator/1"); string(value) != "1" || err != nil {
			t.Errorf("the copy is %q, %v", value, err)
		}
		managers := cluster.New(cluster.Options{Manager: "m1", Store: a, Leases: client, Local: db})
		if err := managers.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for key, value := range map[state.Key]string{"operator/1": "1", "customer/1": "c"} {
			if got, version, err := a.Get(key); string(got) != value || version == 0 || err != nil {
				t.Errorf("%s: %q, %d, %v", key, got, version, err)
			}
		}
		if !c.Joined() {
			t.Error("not joined again")
		}
	})
}

// slowCopies are copies of which listing takes some time.
type slowCopies struct{ *state.DB }

func (s slowCopies) List(prefix state.Key) ([]state.Entry, error) {
	time.Sleep(time.Second)
	return s.DB.List(prefix)
}

// What others change while a manager joins is told, and copied.
func TestChangedWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, db := clustertest.New(), statetest.Open(t, "")
		b, a := open(t, f.Client(), nil), open(t, f.Client(), nil)
		c := cluster.NewCopied(a, slowCopies{db}, slog.New(slog.DiscardHandler))
		var mu sync.Mutex
		told := map[state.Key]bool{}
		c.Subscribe("operator/", func(changed []state.Key) {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range changed {
				told[key] = true
			}
		})
		go c.Run(t.Context())
		const count = 100
		for n := range count {
			time.Sleep(100 * time.Millisecond)
			mustSwap(t, b, state.Change{Key: state.Key(fmt.Sprintf("operator/%03d", n)), Value: []byte("1")})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		list, err := db.List("operator/")
		if len(told) != count || len(list) != count || err != nil {
			t.Errorf("told of %d of %d, %d are copied, %v", len(told), count, len(list), err)
		}
	})
}

// Keys of customers come back, too.
func TestRestoreSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, db := clustertest.New(), statetest.Open(t, "")
		client := f.Client()
		a := open(t, client, nil)
		key := state.Key(state.SecretPrefix + "1")
		mustSwap(t, a, state.Change{Key: key, Value: []byte("it")})
		f.Wipe()
		for a.Err() == nil {
			soon()
		}
		wantErr(t, "wiped", a.Err(), cluster.ErrWiped)
		managers := cluster.New(cluster.Options{Manager: "m1", Store: a, Leases: client, Local: db})
		if err := managers.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := open(t, f.Client(), nil)
		if value, version, err := b.Get(key); string(value) != "it" || version == 0 || err != nil {
			t.Errorf("%q, %d, %v", value, version, err)
		}
	})
}

// fullDisk is a store of copies that takes nothing while it is full.
type fullDisk struct {
	*state.DB
	full atomic.Bool
}

func (d *fullDisk) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	if d.full.Load() {
		return nil, errors.New("no space left")
	}
	return d.DB.Swap(ctx, changes...)
}

// A manager that cannot join the cluster says why, once, and joins as soon as it can.
func TestCannotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &fullDisk{DB: statetest.Open(t, "")}
		disk.full.Store(true)
		var logged strings.Builder
		c := cluster.NewCopied(open(t, clustertest.New().Client(), nil), disk, slog.New(slog.NewTextHandler(&logged, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.Run(ctx); close(done) }()
		time.Sleep(time.Minute)
		if c.Joined() {
			t.Error("it joined")
		}
		disk.full.Store(false)
		time.Sleep(time.Minute)
		if !c.Joined() {
			t.Error("it did not join")
		}
		cancel()
		<-done
		if n := strings.Count(logged.String(), "no space left"); n != 1 {
			t.Errorf("said %d times:\n%s", n, logged.String())
		}
	})
}
