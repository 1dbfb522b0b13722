package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
)

// checkEtcd checks a real etcd, and returns what is not ok of it but its version.
func checkEtcd(t *testing.T, l *etcdlab.Lab, tls *tls.Config, user, prefix string) (bad []Finding, ok int) {
	t.Helper()
	settings := etcd.Config{Endpoints: l.Endpoints(), TLS: tls, User: user}
	if user != "" {
		settings.Password = func() (string, error) { return "sesame-4711", nil }
	}
	client, err := etcd.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	check := &clusterCheck{
		checker: &checker{
			cfg: &config.Config{Cluster: config.Cluster{Store: config.StoreEtcd, Name: "main", User: user}},
			tell: func(f Finding) {
				switch {
				case f.Level == LevelOK:
					ok++
				case !strings.Contains(f.Detail, "#15247"):
					bad = append(bad, f)
				}
			},
		},
		engine: client, prefix: prefix, now: time.Now,
		records: func(context.Context) (clusterRecords, error) { return clusterRecords{}, errors.New("asked") },
	}
	check.run(t.Context())
	if left, _, err := client.Range(t.Context(), prefix); err == nil && len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	return bad, ok
}

// TestCheckRealEtcd: the findings of check about an etcd that is set up as it should be, and
// about others.
func TestCheckRealEtcd(t *testing.T) {
	t.Parallel()
	const prefix = "/balancer/tag/"
	l := etcdtest.Start(t, etcdlab.Config{ClientCert: true, Users: []etcdlab.User{{Name: "m1", Password: "sesame-4711", Prefix: prefix}}})
	if bad, ok := checkEtcd(t, l, l.TLS(), "m1", prefix); len(bad) > 0 || ok != 3 {
		t.Errorf("as it should be: %+v, and %d are ok", bad, ok)
	}
	if bad, _ := checkEtcd(t, l, l.TLS(), "m1", "/balancer/other/"); len(bad) != 1 || bad[0].What != "etcd role" || !strings.Contains(bad[0].Fix, "readwrite /balancer/other/") {
		t.Errorf("without a role: %+v", bad)
	}
	bare := l.TLS()
	bare.Certificates = nil
	if bad, _ := checkEtcd(t, l, bare, "m1", prefix); len(bad) != 1 || bad[0].What != "etcd at "+l.Endpoints()[0] || !strings.Contains(bad[0].Fix, "cluster.cert") {
		t.Errorf("without a certificate: %+v", bad)
	}
	if bad, _ := checkEtcd(t, l, nil, "m1", prefix); len(bad) != 1 || !strings.Contains(bad[0].Fix, "cluster.ca") {
		t.Errorf("without its authority: %+v", bad)
	}

	open := etcdtest.Start(t, etcdlab.Config{TLS: true})
	has := func(bad []Finding, part string) bool {
		return slices.ContainsFunc(bad, func(f Finding) bool { return strings.Contains(f.Detail, part) })
	}
	if bad, _ := checkEtcd(t, open, open.TLS(), "", prefix); !has(bad, "it lets in who has no certificate") {
		t.Errorf("open to all: %+v", bad)
	}
}

// TestOpenedRecords: what is there is read, and nothing is begun.
func TestOpenedRecords(t *testing.T) {
	t.Parallel()
	fake, key := clustertest.New(), cluster.NewKey()
	cfg := cluster.Config{Engine: fake.Client(), Key: key, Name: "main"}
	store, err := cluster.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Swap(t.Context(), state.Change{Key: "operator/x", Value: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	store.Close()
	r, err := openedRecords(t.Context(), cfg)
	if err != nil || len(r.entries) != 1 || r.damaged != 0 || r.old != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	before := len(fake.Items())
	for _, replace := range []func(*cluster.Key) (*cluster.Key, error){(*cluster.Key).Add, (*cluster.Key).Turn, (*cluster.Key).Drop} {
		if cfg.Key, err = replace(cfg.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openedRecords(t.Context(), cfg); !errors.Is(err, cluster.ErrKey) {
		t.Errorf("with another key: %v", err)
	}
	if after := len(fake.Items()); after != before {
		t.Errorf("there were %d records, and now are %d", before, after)
	}
}
