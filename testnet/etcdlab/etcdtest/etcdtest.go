// Package etcdtest starts etcd in tests.
package etcdtest

import (
	"context"
	"testing"
	"time"

	"onionbalancer/testnet/etcdlab"
)

// startLimit is for a machine that has much else to do.
const startLimit = 2 * time.Minute

// Start starts a cluster that is stopped when the test ends. Without etcd the test fails.
func Start(t testing.TB, config etcdlab.Config) *etcdlab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	l, err := etcdlab.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for i := range l.Members() {
				t.Logf("etcd %d:\n%s", i, l.Log(i))
			}
		}
		if err := l.Stop(); err != nil {
			t.Errorf("stopping etcd: %v", err)
		}
	})
	return l
}
