package hosting

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
)

// Two managers on a real etcd add customers at the same time while its leader dies: each name
// is one customer's, each spare too, and both have all keys.
func TestSharedOnEtcd(t *testing.T) {
	const count = 30
	l := etcdtest.Start(t, etcdlab.Config{Members: 3})
	key := cluster.NewKey()
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cancel()
	var all []*Registry
	var dirs []string
	for n := range 2 {
		dir := shardDir(t, "s1")
		if n == 0 {
			spares(t, dir, 0, 2*count)
		}
		e, err := cluster.NewEtcd(etcd.Config{Endpoints: l.Endpoints(), TLS: l.TLS()})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		store, err := cluster.Open(cluster.Config{Engine: e, Key: key, Name: "main"})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		copied := cluster.NewCopied(store, statetest.Open(t, ""), slog.New(slog.DiscardHandler))
		r, err := Open(copied, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		r.ShareKeys()
		copied.Subscribe(state.CustomerPrefix, r.Note)
		copied.Subscribe(KeyPrefix, r.NoteKeys)
		configure(t, r, dir)
		loops.Go(func() { copied.Run(ctx) })
		if err := copied.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Hear(ctx); err != nil {
			t.Fatal(err)
		}
		loops.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-r.Noted():
					_, _ = r.Hear(ctx)
				}
			}
		})
		all, dirs = append(all, r), append(dirs, dir)
	}
	for all[1].shardOf("s1").Spares < 2*count {
		time.Sleep(20 * time.Millisecond)
	}
	var adding sync.WaitGroup
	for n := range count {
		for _, r := range all {
			adding.Go(func() {
				name := fmt.Sprintf("c%02d", n)
				for {
					if _, _, err := r.Add(ctx, name, "", "r"+name); err == nil || ctx.Err() != nil {
						return
					}
					time.Sleep(50 * time.Millisecond) // the etcd has no leader
				}
			})
		}
		if n == count/2 {
			leader, err := l.Leader(ctx)
			if err != nil {
				t.Error(err)
			}
			l.Kill(leader)
		}
	}
	adding.Wait()
	whole := func() bool {
		for n, r := range all {
			for _, c := range all[0].All() {
				if is, err := (&Dir{dirs[n]}).Address(c.Name); err != nil || is != c.Address {
					return false
				}
			}
			_ = r.Refresh(ctx)
		}
		return slices.Equal(all[0].All(), all[1].All())
	}
	for !whole() {
		if t.Context().Err() != nil {
			t.Fatal("the managers differ still")
		}
		time.Sleep(100 * time.Millisecond)
	}
	names := map[string]bool{}
	for _, c := range all[0].All() {
		names[c.Name] = true
	}
	if n := len(all[0].All()); n != count || len(names) != count {
		t.Errorf("%d customers with %d names, want %d", n, len(names), count)
	}
	for n, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, pendingDir, makingDir)); err == nil {
			t.Errorf("manager %d left a key half made", n)
		}
		if left, err := (&Dir{dir}).Spares(); err != nil || len(left) != count {
			t.Errorf("manager %d has %d spares, %v", n, len(left), err)
		}
	}
}
