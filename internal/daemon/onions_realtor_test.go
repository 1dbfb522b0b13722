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
	"onionbalancer/internal/status"
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
	keys := t.TempDir()
	a, b := writeKey(t, filepath.Join(keys, "a"), 1), writeKey(t, filepath.Join(keys, "b"), 2)
	tors := []string{lab.Manager, stranger}
	w := &town{t: t, Lab: labtest.Start(ctx, t, lab.Config{Masters: []string{a.String(), b.String()}, Instances: 2, Managers: tors})}
	for _, key := range []string{"a", "b"} {
		if err := os.Rename(filepath.Join(keys, key), filepath.Join(w.Dir, key)); err != nil {
			t.Fatal(err)
		}
	}
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
			managers = append(managers, w.sharing(ctx, name, "a", fmt.Sprintf("[cluster]\nstore = \"etcd\"\nmanager = %q\nendpoints = [\"http://%s:2379\"]\nkey = \"cluster.key\"\n", name, hidden.Address())))
		}
		defer managers[1].Stop()
		owned := func(d *Daemon) bool { return d.Cluster().Status().Owned == 1 }
		w.until(ctx, "published", func() bool {
			return managers[0].Cluster().Status().Joined && managers[1].Cluster().Status().Joined && (owned(managers[0]) || owned(managers[1]))
		})
		labtest.Reach(ctx, t, w.Lab, a.String(), 2)
		if took := managers[0].Cluster().Status().Store.Latency; took == 0 {
			t.Error("nothing was stored")
		} else {
			t.Logf("the store answers within %.2f s", took)
		}
		managers[0].Stop()
		w.until(ctx, "the other's", func() bool { return owned(managers[1]) })
		labtest.Reach(ctx, t, w.Lab, a.String(), 2)
	})
	t.Run("heartbeat", func(t *testing.T) {
		active := w.sharing(ctx, tors[0], "b", fmt.Sprintf("[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"active\"\nlisten = \"unix:%s\"\n", beat))
		standby := w.sharing(ctx, tors[1], "b", fmt.Sprintf("[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"standby\"\nheartbeat = \"%s:9100\"\n", hidden.Address()))
		defer standby.Stop()
		heard := func() (s status.Standby) {
			if told := standby.Cluster().Status().Standby; told != nil {
				s = *told
			}
			return s
		}
		w.until(ctx, "heard", func() bool { s := heard(); return s.Heard != nil && *s.Heard })
		labtest.Reach(ctx, t, w.Lab, b.String(), 2)
		active.Stop()
		w.until(ctx, "silent", func() bool { return heard().Silence != "" })
		t.Logf("the heartbeat ended: %s", heard().Silence)
	})
}

// sharing starts a daemon at one of the tors, with a [cluster] table.
func (w *town) sharing(ctx context.Context, tor, key, table string) *Daemon {
	w.t.Helper()
	text := w.ServiceConfig(tor+"-"+key, fmt.Sprintf("control = %q", w.Net.ControlTarget(tor)), key, "fetch_interval = \"15s\"") + table
	d, err := New(parse(w.t, w.Dir, text), "test", slog.New(slog.NewTextHandler(w.t.Output(), nil)))
	if err == nil {
		err = d.Start(ctx)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// until waits until something holds.
func (w *town) until(ctx context.Context, what string, holds func() bool) {
	w.t.Helper()
	began := time.Now()
	for !holds() {
		if ctx.Err() != nil {
			w.t.Fatalf("%s: not within %s", what, time.Since(began).Round(time.Second))
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Logf("%s after %s", what, time.Since(began).Round(time.Second))
}
