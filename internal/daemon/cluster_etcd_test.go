package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
	"onionbalancer/testnet/sim"
)

// TestManagersRealEtcd: two managers with certificates, users and a quota in a real etcd that
// runs out of room and has some again, what their status says, and check.
func TestManagersRealEtcd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := cluster.NewKey()
	prefix, err := cluster.Prefix(key, "main")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cluster.key", lockedtest.Bytes(key.Text()))
	write("password", []byte("sesame-4711\n"))
	l := etcdtest.Start(t, etcdlab.Config{ClientCert: true, Quota: 4 << 20, Users: []etcdlab.User{{Name: "m", Password: "sesame-4711", Prefix: prefix}}})
	net := sim.New(sim.Config{Seed: 1, Latency: 10 * time.Millisecond})
	defer net.Close()
	writeKey(t, filepath.Join(dir, "a"), 1)
	writeKey(t, filepath.Join(dir, "b"), 2)
	one := net.AddInstance(sim.InstanceConfig{})
	cert, certKey, err := l.Certificate("")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) *config.Config {
		return parse(t, dir, fmt.Sprintf(`state_dir = %q
%s[cluster]
store = "etcd"
manager = %q
endpoints = %q
ca = %q
cert = %q
cert_key = %q
user = "m"
password_file = "password"
key = "cluster.key"
`, filepath.Join(dir, name), torTable, name, l.Endpoints()[0], l.CAFile(), cert, certKey)+service("a", one)+service("b", one))
	}
	start := func(name string) *Daemon {
		t.Helper()
		d, err := New(file(name), "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		d.open = func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error) {
			return tor.NewPool(tor.New("simulated", control.New(control.Config{Dial: net.Dial}))), nil
		}
		d.dialer = net.Dialer()
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return d
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what + ": not in two minutes")
			}
		}
	}
	m1, m2 := start("m1"), start("m2")
	defer m2.Stop()
	published := func(d *Daemon) (n int) {
		for _, s := range d.Snapshot().Services {
			if s.State == status.StateOK {
				n++
			}
		}
		return n
	}
	until("both publish", func() bool { return published(m1)+published(m2) == 2 })
	until("the size of etcd is known", func() bool { return m1.Cluster().Status().Store.Bytes > 0 })

	var found findings
	if err := Check(t.Context(), file("m3"), false, slog.New(slog.DiscardHandler), found.tell); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"ok etcd at " + l.Endpoints()[0] + ": version", "ok etcd role: reads, writes and deletes below " + prefix, "ok cluster main: the key opens 4 records; 2 managers: m1, m2"} {
		if !strings.Contains(found.String(), what) {
			t.Errorf("check says\n%s\nand not %q", found, what)
		}
	}

	filler, err := etcd.New(etcd.Config{Endpoints: l.Endpoints(), TLS: l.TLS(), User: "m", Password: func() (string, error) { return "sesame-4711", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	fill := []etcd.Op{{Key: prefix + "~", Want: -1, Value: []byte(strings.Repeat("x", 200<<10))}}
	for err == nil {
		_, err = filler.Txn(t.Context(), fill)
	}
	alarms := func(d *Daemon) []string { return d.Cluster().Status().Store.Alarms }
	until("the alarm shows", func() bool { return slices.Equal(alarms(m1), []string{"NOSPACE"}) && len(alarms(m2)) == 1 })
	if published(m1)+published(m2) != 2 {
		t.Error("without room not all is published")
	}
	fill[0].Value = nil
	if _, err := filler.Txn(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	revision, err := l.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, repair := range []func() error{func() error { return l.Compact(t.Context(), revision) }, func() error { return l.Defrag(t.Context()) }, func() error { return l.Disarm(t.Context()) }} {
		if err := repair(); err != nil {
			t.Fatal(err)
		}
	}
	until("the alarm is over", func() bool { return len(alarms(m1))+len(alarms(m2)) == 0 })
	m1.Stop()
	until("m2 publishes all", func() bool { return published(m2) == 2 && m2.Cluster().Status().Owned == 2 })
}
