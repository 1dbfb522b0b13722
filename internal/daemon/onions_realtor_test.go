package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/testnet"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

// TestOverOnions: managers that know etcd, and the machine that they stand in for, by onion
// addresses alone.
func TestOverOnions(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	tors := []string{lab.Manager, stranger}
	w, public := newTown(ctx, t, lab.Config{Instances: 2, Managers: tors}, "a", "b")
	a, b := public[0], public[1]
	endpoint, err := url.Parse(etcdtest.Start(t, etcdlab.Config{}).Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	beat := filepath.Join(w.Dir, "beat")
	hidden, err := w.Net.Service(ctx, testnet.ServiceConfig{Name: "hidden", Options: []string{
		"HiddenServicePort 2379 " + endpoint.Host, "HiddenServicePort 9100 unix:" + beat,
	}})
	if err == nil {
		err = hidden.Published(ctx)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.Dir, "cluster.key"), lockedtest.Bytes(cluster.NewKey().Text()), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Run("etcd", func(t *testing.T) {
		var managers []*Daemon
		for _, name := range tors {
			d := w.sharing(ctx, t, name, "a", fmt.Sprintf("[cluster]\nstore = \"etcd\"\nmanager = %q\nendpoints = [\"http://%s:2379\"]\nkey = \"cluster.key\"\n", name, hidden.Address()))
			managers = append(managers, d)
		}
		owned := func(d *Daemon) bool { return d.Cluster().Status().Owned == 1 }
		until(ctx, t, "published", func() bool {
			return managers[0].Cluster().Status().Joined && managers[1].Cluster().Status().Joined && (owned(managers[0]) || owned(managers[1]))
		})
		labtest.Reach(ctx, t, w.Lab, a.String(), 2)
		one, other := managers[0], managers[1]
		if owned(other) {
			one, other = other, one
		}
		t.Logf("the store answers within %.2f s", one.Cluster().Status().Store.Latency)
		one.Stop()
		until(ctx, t, "the other's", func() bool { return owned(other) })
		labtest.Reach(ctx, t, w.Lab, a.String(), 2)
	})
	t.Run("heartbeat", func(t *testing.T) {
		w.sharing(ctx, t, tors[0], "b", fmt.Sprintf("[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"active\"\nlisten = \"unix:%s\"\n", beat))
		standby := w.sharing(ctx, t, tors[1], "b", fmt.Sprintf("[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"standby\"\nheartbeat = \"%s:9100\"\n", hidden.Address()))
		until(ctx, t, "heard", func() bool {
			told := standby.Cluster().Status().Standby
			return told != nil && told.Heard != nil && *told.Heard
		})
		labtest.Reach(ctx, t, w.Lab, b.String(), 2)
	})
}

// sharing starts a daemon at one of the tors, with a [cluster] table, until the test ends.
func (w *town) sharing(ctx context.Context, t *testing.T, tor, key, table string) *Daemon {
	t.Helper()
	text := w.ServiceConfig(tor+"-"+key, fmt.Sprintf("control = %q", w.Net.ControlTarget(tor)), key, "fetch_interval = \"15s\"") + table
	d, err := New(parse(t, w.Dir, text), "test", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err == nil {
		err = d.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	return d
}

// until waits until something holds.
func until(ctx context.Context, t *testing.T, what string, holds func() bool) {
	t.Helper()
	began := time.Now()
	for !holds() {
		if ctx.Err() != nil {
			t.Fatalf("%s: not within %s", what, time.Since(began).Round(time.Second))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%s after %s", what, time.Since(began).Round(time.Second))
}
