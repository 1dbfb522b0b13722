package clustertest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/cluster"
)

func TestTransaction(t *testing.T) {
	f := New()
	c := f.Client()
	put := func(key string, version int64) (int64, bool, []cluster.Item) {
		t.Helper()
		revision, made, items, err := c.Txn(t.Context(), []cluster.Op{{Key: "check", Check: true}, {Key: key, Version: version, Value: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		return revision, made, items
	}
	first, made, _ := put("a", 0)
	if !made || first != f.Revision() {
		t.Fatalf("creating: %d, %v", first, made)
	}
	if revision, made, items := put("a", 0); made || revision != first || len(items) != 2 || items[0].Version != 0 || items[1].Version != first || string(items[1].Value) != "x" {
		t.Fatalf("creating again: %d, %v, %v", revision, made, items)
	}
	if second, made, _ := put("a", first); !made || second != first+1 {
		t.Fatalf("replacing: %d, %v", second, made)
	}
	items, revision, err := c.Range(t.Context(), "a")
	if err != nil || revision != first+1 || len(items) != 1 {
		t.Fatalf("%v, %d, %v", items, revision, err)
	}
}

func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		c := f.Client()
		id, err := c.Grant(t.Context(), 9*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := c.Txn(t.Context(), []cluster.Op{{Key: "m", Value: []byte("x"), Lease: id}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan time.Time, 1)
		go func() {
			for ctx.Err() == nil { // it breaks while the engine is down
				_ = c.Watch(ctx, "m", 3, func(_ int64, items []cluster.Item) {
					if len(items) == 1 && items[0].Value == nil {
						gone <- time.Now()
					}
				})
			}
		}()
		for range 5 {
			time.Sleep(3 * time.Second)
			if err := c.KeepAlive(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		f.Down(true) // a minute in which nothing ends
		time.Sleep(time.Minute)
		f.Down(false)
		up := time.Now()
		if took := (<-gone).Sub(up); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("ended after %s", took)
		}
		if err := c.KeepAlive(t.Context(), id); !errors.Is(err, cluster.ErrLeaseLost) {
			t.Error(err)
		}
		if _, _, _, err := c.Txn(t.Context(), []cluster.Op{{Key: "m", Value: []byte("x"), Lease: id}}); !errors.Is(err, cluster.ErrLeaseLost) {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
	})
}
