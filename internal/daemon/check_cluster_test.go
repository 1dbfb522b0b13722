package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/internal/state"
)

// fakeEtcd is an etcd of several servers with one user, who may use prefix alone.
type fakeEtcd struct {
	order    []string
	servers  map[string]etcd.Status // those that answer
	open     etcd.Openness          // of all of them
	alarms   []etcd.Alarm
	keys     map[string]etcd.KV
	revision int64
	kept     bool             // all revisions are
	allowed  bool             // to read everything
	fails    map[string]error // by the name of the call
	prefix   string
	leases   map[int64]bool
}

func (f *fakeEtcd) Endpoints() []string { return f.order }

func (f *fakeEtcd) Status(_ context.Context, endpoint string) (etcd.Status, error) {
	if s, answers := f.servers[endpoint]; answers {
		return s, nil
	}
	return etcd.Status{}, etcd.ErrUnavailable
}

func (f *fakeEtcd) Openness(context.Context, string, string) (etcd.Openness, error) {
	return f.open, f.fails["Openness"]
}

func (f *fakeEtcd) Alarms(context.Context) ([]etcd.Alarm, error) { return f.alarms, f.fails["Alarms"] }

func (f *fakeEtcd) Range(_ context.Context, prefix string) (kvs []etcd.KV, revision int64, err error) {
	if !f.allowed && !strings.HasPrefix(prefix, f.prefix) {
		return nil, 0, etcd.ErrDenied
	}
	for _, key := range slices.Sorted(maps.Keys(f.keys)) {
		if strings.HasPrefix(key, prefix) {
			kvs = append(kvs, f.keys[key])
		}
	}
	return kvs, f.revision, f.fails["Range"]
}

func (f *fakeEtcd) Txn(_ context.Context, ops []etcd.Op) (etcd.Result, error) {
	if err := f.fails["Txn"]; err != nil {
		return etcd.Result{}, err
	}
	o := ops[0]
	if f.keys[o.Key].Revision != o.Want || !strings.HasPrefix(o.Key, f.prefix) {
		return etcd.Result{}, nil
	}
	f.revision++
	delete(f.keys, o.Key)
	if o.Value != nil {
		f.keys[o.Key] = etcd.KV{Key: o.Key, Value: o.Value, Revision: f.revision, Lease: o.Lease}
	}
	return etcd.Result{Made: true, Revision: f.revision}, nil
}

func (f *fakeEtcd) Watch(ctx context.Context, _ string, _ int64, _ func(int64, []etcd.KV)) error {
	if !f.kept {
		return etcd.ErrCompacted
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeEtcd) Grant(context.Context, time.Duration) (int64, error) {
	f.leases[7] = true
	return 7, f.fails["Grant"]
}

func (f *fakeEtcd) Revoke(_ context.Context, id int64) error {
	delete(f.leases, id)
	return nil
}

var clusterNow = time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)

const (
	endpointOne = "https://10.0.0.1:2379"
	endpointTwo = "https://10.0.0.2:2379"
	testPrefix  = "/balancer/tag/"
)

// goodEtcd is an etcd of which there is nothing to tell, with records of a cluster.
func goodEtcd() *fakeEtcd {
	s := etcd.Status{Version: "3.5.21", Cluster: 5, Leader: 1, Size: 4 << 20, InUse: 3 << 20}
	return &fakeEtcd{
		order: []string{endpointOne, endpointTwo}, servers: map[string]etcd.Status{endpointOne: s, endpointTwo: s},
		keys: map[string]etcd.KV{testPrefix + "layout": {Key: testPrefix + "layout", Revision: 1}}, revision: 5000,
		fails: map[string]error{}, prefix: testPrefix, leases: map[int64]bool{},
	}
}

// goodRecords are those of a cluster of two managers.
func goodRecords(t *testing.T, change func(m1, m2 *cluster.Member)) clusterRecords {
	t.Helper()
	m1, m2 := cluster.Member{Manager: "m1", Clock: clusterNow}, cluster.Member{Manager: "m2", Clock: clusterNow.Add(-30 * time.Second)}
	if change != nil {
		change(&m1, &m2)
	}
	var r clusterRecords
	for key, value := range map[state.Key]any{
		"member/m1": m1, "member/m2": m2, state.ServiceKey(descriptor.Address{1}): state.Service{Owner: "m1"}, state.ServiceKey(descriptor.Address{2}): state.Service{Owner: "m2", Made: []state.Made{{Built: clusterNow}}},
	} {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		r.entries = append(r.entries, state.Entry{Key: key, Version: 1, Value: raw})
	}
	slices.SortFunc(r.entries, func(a, b state.Entry) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return r
}

func TestCheckCluster(t *testing.T) {
	server := func(change func(*etcd.Status)) func(*fakeEtcd, *config.Cluster) {
		return func(f *fakeEtcd, _ *config.Cluster) {
			s := f.servers[endpointTwo]
			change(&s)
			f.servers[endpointTwo] = s
		}
	}
	for what, test := range map[string]struct {
		change  func(*fakeEtcd, *config.Cluster)
		records func() (clusterRecords, error)
		want    string // the finding that is not ok, as "LEVEL WHAT: DETAIL"; empty: all is ok
		fix     string
	}{
		"all well":            {},
		"one does not answer": {change: func(f *fakeEtcd, _ *config.Cluster) { delete(f.servers, endpointTwo) }, want: "failed etcd at " + endpointTwo + ": etcd is not available", fix: "is etcd running"},
		"too old":             {change: server(func(s *etcd.Status) { s.Version = "3.3.25" }), want: "failed etcd at " + endpointTwo + ": it is etcd 3.3.25", fix: "3.4 or later"},
		"no version":          {change: server(func(s *etcd.Status) { s.Version = "x" }), want: `failed etcd at ` + endpointTwo + `: it says that its version is "x"`},
		"revokes":             {change: server(func(s *etcd.Status) { s.Version = "3.4.23" }), want: "warning etcd at " + endpointTwo + ": etcd 3.4.23 may end all leases", fix: "3.4.31"},
		"another cluster":     {change: server(func(s *etcd.Status) { s.Cluster = 6 }), want: "failed etcd at " + endpointTwo + ": it is of another etcd than " + endpointOne},
		"no leader":           {change: server(func(s *etcd.Status) { s.Leader = 0 }), want: "failed etcd at " + endpointTwo + ": it knows no leader"},
		"an error of its own": {change: server(func(s *etcd.Status) { s.Errors = []string{"memberID:1 alarm:NOSPACE"} }), want: "warning etcd at " + endpointTwo + ": it says: memberID:1 alarm:NOSPACE"},
		"large":               {change: server(func(s *etcd.Status) { s.Size = 1900 << 20 }), want: "warning etcd at " + endpointTwo + ": its file has 1900 MiB, of 2048 MiB", fix: "defrag"},
		"an alarm":            {change: func(f *fakeEtcd, _ *config.Cluster) { f.alarms = []etcd.Alarm{{Member: 255, Kind: "NOSPACE"}} }, want: "failed etcd: its member ff raised the alarm NOSPACE", fix: "disarm"},
		"alarms are secret":   {change: func(f *fakeEtcd, _ *config.Cluster) { f.fails["Alarms"] = etcd.ErrDenied }},
		"alarms fail":         {change: func(f *fakeEtcd, _ *config.Cluster) { f.fails["Alarms"] = etcd.ErrUnavailable }, want: "warning etcd: its alarms cannot be read"},
		"not compacted":       {change: func(f *fakeEtcd, _ *config.Cluster) { f.revision, f.kept = 200_000, true }, want: "warning etcd: it keeps all of 20000", fix: "auto-compaction"},
		"compacted":           {change: func(f *fakeEtcd, _ *config.Cluster) { f.revision = 200_000 }},
		"young":               {change: func(f *fakeEtcd, _ *config.Cluster) { f.kept = true }},
		"may not write":       {change: func(f *fakeEtcd, _ *config.Cluster) { f.fails["Txn"] = etcd.ErrDenied }, want: "failed etcd role: trying to write, read and delete a key: etcd denies access", fix: "etcdctl role grant-permission ROLE --prefix=true readwrite " + testPrefix},
		"no lease":            {change: func(f *fakeEtcd, _ *config.Cluster) { f.fails["Grant"] = etcd.ErrNoSpace }, want: "failed etcd role: trying to write, read and delete a key: etcd has no space left", fix: "disarm"},
		"may read all":        {change: func(f *fakeEtcd, _ *config.Cluster) { f.allowed = true }, want: `warning etcd role: the user "m1" may read all of etcd`},
		"another prefix":      {change: func(f *fakeEtcd, _ *config.Cluster) { f.prefix = "/balancer/other/" }, want: "failed etcd role: trying to write, read and delete a key: it says that a new key"},
		"no users": {change: func(f *fakeEtcd, c *config.Cluster) {
			f.allowed, c.User, c.PasswordFile, f.open.NoUser = true, "", "", true
		},
			want: "warning etcd at " + endpointOne + ": there are no users"},
		"empty": {change: func(f *fakeEtcd, _ *config.Cluster) { clear(f.keys) }, records: func() (clusterRecords, error) { return clusterRecords{}, errors.New("not to be asked") }},
		"empty, with others": {change: func(f *fakeEtcd, c *config.Cluster) {
			f.allowed, c.User, f.keys = true, "", map[string]etcd.KV{"/balancer/other/layout": {Revision: 1}}
		}, want: "warning cluster main: nothing is stored by this name and with this key", fix: "copy cluster.key"},
		"another key": {records: func() (clusterRecords, error) { return clusterRecords{}, fmt.Errorf("x: %w", cluster.ErrKey) },
			want: "failed cluster main: x: the cluster key is another one", fix: "copy cluster.key"},
		"wiped":        {records: func() (clusterRecords, error) { return clusterRecords{}, cluster.ErrWiped }, want: "failed cluster main: the store of the cluster was wiped", fix: "cluster restore"},
		"newer":        {records: func() (clusterRecords, error) { return clusterRecords{}, state.ErrNewer }, want: "failed cluster main: ", fix: "update balancer"},
		"other errors": {records: func() (clusterRecords, error) { return clusterRecords{}, errors.New("some") }, want: "failed cluster main: some"},
		"damaged": {records: func() (clusterRecords, error) {
			r := goodRecords(t, nil)
			r.damaged = 2
			return r, nil
		}, want: "warning cluster main: records that do not open with the cluster key: 2"},
		"an old key": {records: func() (clusterRecords, error) {
			r := goodRecords(t, nil)
			r.old = 3
			return r, nil
		}, want: "warning cluster main: records that are sealed with another key than the first in cluster.key: 3"},
		"clock ahead": {records: func() (clusterRecords, error) {
			return goodRecords(t, func(_, m2 *cluster.Member) { m2.Clock = clusterNow.Add(2*time.Minute + time.Second) }), nil
		}, want: "warning clock of m2: it differs from this machine's by about 2m1s"},
		"clock behind": {records: func() (clusterRecords, error) {
			return goodRecords(t, func(_, m2 *cluster.Member) { m2.Clock = clusterNow.Add(-4 * time.Minute) }), nil
		}, want: "warning clock of m2: it differs from this machine's by about 4m0s"},
		"a clock said long ago": {records: func() (clusterRecords, error) {
			return goodRecords(t, func(m1, m2 *cluster.Member) {
				m1.Clock, m2.Clock = time.Time{}, clusterNow.Add(-2*time.Minute-30*time.Second)
			}), nil
		}},
		"unfit": {records: func() (clusterRecords, error) {
			return goodRecords(t, func(m1, _ *cluster.Member) { m1.Unfit = "no tor" }), nil
		}, want: "warning manager m1: it cannot publish: no tor"},
		"orphans": {records: func() (clusterRecords, error) {
			return goodRecords(t, func(_, m2 *cluster.Member) { m2.Manager = "m3" }), nil
		}, want: "warning cluster main: 1 service, aiaaaa… among them, have no live manager"},
		"nobody": {records: func() (clusterRecords, error) {
			r := goodRecords(t, nil)
			r.entries = r.entries[2:]
			return r, nil
		}, want: "warning cluster main: 2 services stored, and no manager is there"},
	} {
		f, cfg := goodEtcd(), &config.Config{Cluster: config.Cluster{Store: config.StoreEtcd, Name: "main", User: "m1", PasswordFile: "/p", Endpoints: []string{endpointOne, endpointTwo}}}
		if test.change != nil {
			test.change(f, &cfg.Cluster)
		}
		records := test.records
		if records == nil {
			records = func() (clusterRecords, error) { return goodRecords(t, nil), nil }
		}
		var list []Finding
		check := &clusterCheck{
			checker: &checker{cfg: cfg, tell: func(f Finding) { list = append(list, f) }}, engine: f, prefix: testPrefix,
			records: func(context.Context) (clusterRecords, error) { return records() }, now: func() time.Time { return clusterNow },
		}
		check.run(t.Context())
		bad := slices.DeleteFunc(slices.Clone(list), func(f Finding) bool { return f.Level == LevelOK })
		switch {
		case test.want == "" && len(bad) > 0, test.want != "" && len(bad) == 0:
			t.Errorf("%s: %+v, want %q", what, list, test.want)
		case test.want != "":
			got := fmt.Sprintf("%s %s: %s", bad[0].Level, bad[0].What, bad[0].Detail)
			if !strings.HasPrefix(got, test.want) || !strings.Contains(bad[0].Fix, test.fix) || len(bad) > 2 {
				t.Errorf("%s: %q (%s), want %q (%s); all of them: %+v", what, got, bad[0].Fix, test.want, test.fix, bad)
			}
		}
		for key := range f.keys {
			if strings.Contains(key, "check") {
				t.Errorf("%s: %s is left", what, key)
			}
		}
		if len(f.leases) > 0 && f.fails["Grant"] == nil {
			t.Errorf("%s: a lease is left", what)
		}
	}
}

// TestCheckClusterOpenness: who is let in.
func TestCheckClusterOpenness(t *testing.T) {
	const onion = "http://zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion:2379"
	for _, test := range []struct {
		endpoint string
		user     string
		open     etcd.Openness
		level    Level // the worst
		want     string
	}{
		{endpointOne, "m1", etcd.Openness{}, LevelOK, ""},
		{endpointOne, "m1", etcd.Openness{NoCertificate: true}, LevelFailed, "it lets in who has no certificate"},
		{endpointOne, "", etcd.Openness{NoCertificate: true, NoUser: true}, LevelFailed, "it lets in who has no certificate"},
		{endpointOne, "m1", etcd.Openness{NoUser: true}, LevelFailed, "users do not count"},
		{endpointOne, "", etcd.Openness{NoUser: true}, LevelWarning, "there are no users"},
		{"http://10.0.0.1:2379", "m1", etcd.Openness{Plain: true, NoCertificate: true}, LevelWarning, "not encrypted"},
		{"unix:/run/e", "m1", etcd.Openness{Plain: true, NoCertificate: true}, LevelOK, ""},
		{"unix:/run/e", "m1", etcd.Openness{Plain: true, NoCertificate: true, NoUser: true}, LevelFailed, "users do not count"},
		{onion, "m1", etcd.Openness{Plain: true, NoCertificate: true}, LevelOK, ""},
	} {
		f := goodEtcd()
		f.order, f.servers, f.open = []string{test.endpoint}, map[string]etcd.Status{test.endpoint: f.servers[endpointOne]}, test.open
		var bad []Finding
		check := &clusterCheck{checker: &checker{
			cfg:  &config.Config{Cluster: config.Cluster{User: test.user, EndpointsPlain: true}},
			tell: func(f Finding) { bad = append(bad, f) },
		}, engine: f, prefix: testPrefix, now: time.Now}
		usable := check.servers(t.Context())
		bad = slices.DeleteFunc(bad, func(f Finding) bool { return f.Level == LevelOK })
		if usable != (test.level != LevelFailed) || len(bad) != len(test.want[:min(len(test.want), 1)]) ||
			len(bad) > 0 && (bad[0].Level != test.level || !strings.Contains(bad[0].Detail, test.want)) {
			t.Errorf("%s %+v: usable %t, %+v, want %s %q", test.endpoint, test.open, usable, bad, test.level, test.want)
		}
	}
	f := goodEtcd()
	f.fails["Openness"] = etcd.ErrUnavailable
	var bad []Finding
	check := &clusterCheck{checker: &checker{cfg: &config.Config{}, tell: func(f Finding) { bad = append(bad, f) }}, engine: f, now: time.Now}
	if check.run(t.Context()); !slices.ContainsFunc(bad, func(f Finding) bool { return strings.Contains(f.Detail, "what it lets others do") }) || slices.ContainsFunc(bad, func(f Finding) bool { return f.What == "etcd role" }) {
		t.Errorf("%+v", bad)
	}
}

func TestEtcdVersions(t *testing.T) {
	for version, want := range map[string]struct{ old, revokes bool }{
		"3.3.27": {true, false}, "2.3.8": {true, false}, "3.4.0": {false, true}, "3.4.23": {false, true}, "3.4.30+debian": {false, true}, "3.4.31": {false, false},
		"3.5.12": {false, true}, "3.5.13": {false, false}, "3.6.0": {false, false}, "3.6.0-rc.1": {false, false}, "3.10.0": {false, false}, "4.0.0": {false, false}, "4.4.0": {false, false},
	} {
		old, err := tooOld(version)
		if err != nil || old != want.old || wronglyRevokes(version) != want.revokes {
			t.Errorf("%s: too old %t, revokes %t, %v", version, old, wronglyRevokes(version), err)
		}
	}
	for _, version := range []string{"", "3", "3.4", "a.b.c", "3.4.0.1", "not_decided"} {
		if _, err := tooOld(version); err == nil || wronglyRevokes(version) {
			t.Errorf("%q is taken", version)
		}
	}
}

// writeCertificate writes a certificate that ends at a time, and its key.
func writeCertificate(t *testing.T, cert, key string, end time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err == nil {
		err = os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	}
	if err == nil {
		err = os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckClusterFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(in(name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("cluster.key", string(lockedtest.Bytes(cluster.NewKey().Text())), 0o600)
	write("password", "secret\r\nsecond\n", 0o600)
	write("empty", "\n", 0o600)
	write("open", "secret\n", 0o644)
	writeCertificate(t, in("m1.pem"), in("m1.key"), time.Now().Add(365*24*time.Hour))
	writeCertificate(t, in("soon.pem"), in("soon.key"), time.Now().Add(24*time.Hour))
	writeCertificate(t, in("over.pem"), in("over.key"), time.Now().Add(-time.Hour))
	good := config.Cluster{Store: config.StoreEtcd, Name: "main", Key: in("cluster.key"), CA: in("m1.pem"), Cert: in("m1.pem"), CertKey: in("m1.key"), User: "m1", PasswordFile: in("password")}
	for what, test := range map[string]struct {
		change func(*config.Config)
		level  Level // the worst
		want   string
	}{
		"all well":         {func(*config.Config) {}, LevelOK, "key and certificates can be read"},
		"alone":            {func(c *config.Config) { c.Cluster = config.Cluster{} }, "", ""},
		"least":            {func(c *config.Config) { c.Cluster = config.Cluster{Store: config.StoreEtcd, Key: in("cluster.key")} }, LevelOK, "can be read"},
		"no key":           {func(c *config.Config) { c.Cluster.Key = in("none") }, LevelFailed, "balancer cluster key " + in("none")},
		"no key of ours":   {func(c *config.Config) { c.Cluster.Key = in("password") }, LevelFailed, "a line does not begin with"},
		"no authority":     {func(c *config.Config) { c.Cluster.CA = in("password") }, LevelFailed, "has no certificate in PEM"},
		"no CA file":       {func(c *config.Config) { c.Cluster.CA = in("none") }, LevelFailed, "no such file"},
		"another key":      {func(c *config.Config) { c.Cluster.CertKey = in("soon.key") }, LevelFailed, "does not match"},
		"key for all":      {func(c *config.Config) { c.Cluster.CertKey = in("m1.pem") }, LevelFailed, "chmod 600"},
		"ends soon":        {func(c *config.Config) { c.Cluster.Cert, c.Cluster.CertKey = in("soon.pem"), in("soon.key") }, LevelWarning, "it ends at"},
		"over":             {func(c *config.Config) { c.Cluster.Cert, c.Cluster.CertKey = in("over.pem"), in("over.key") }, LevelFailed, "it ended at"},
		"no password":      {func(c *config.Config) { c.Cluster.PasswordFile = in("none") }, LevelFailed, "no such file"},
		"empty password":   {func(c *config.Config) { c.Cluster.PasswordFile = in("empty") }, LevelFailed, "its first line is empty"},
		"password for all": {func(c *config.Config) { c.Cluster.PasswordFile = in("open") }, LevelFailed, "chmod 600"},
		"standby": {func(c *config.Config) {
			c.Cluster = config.Cluster{Store: config.StoreStandby, Standby: config.Standby{Role: config.RoleStandby}}
		}, LevelOK, "two machines without a store"},
		"standby of many": {func(c *config.Config) {
			c.Cluster = config.Cluster{Store: config.StoreStandby}
			c.Services = make([]config.Service, 51)
		}, LevelWarning, "51 services are looked at"},
		"standby of shards": {func(c *config.Config) {
			c.Cluster = config.Cluster{Store: config.StoreStandby}
			c.Shards = make([]config.Shard, 1)
		}, LevelWarning, "are not shared"},
	} {
		cfg := &config.Config{Cluster: good}
		test.change(cfg)
		var worst Level
		var all string
		c := &checker{cfg: cfg, tell: func(f Finding) {
			if worst == "" || worst == LevelOK || f.Level == LevelFailed {
				worst = f.Level
			}
			all += f.What + ": " + f.Detail + " -> " + f.Fix + "\n"
		}}
		_, opened := c.checkClusterFiles()
		if worst != test.level || !strings.Contains(all, test.want) || strings.Contains(all, "secret") {
			t.Errorf("%s: %s\n%s, want %s %q", what, worst, all, test.level, test.want)
		}
		if opened != (cfg.Cluster.Store == config.StoreEtcd && (worst != LevelFailed || what == "over")) {
			t.Errorf("%s: opened %t", what, opened)
		}
	}
	if password, err := clusterPassword(in("password")); err != nil || password != "secret" {
		t.Errorf("%q, %v", password, err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if password, err := clusterPassword("credential:password"); err != nil || password != "secret" {
		t.Errorf("%q, %v", password, err)
	}
	good.Endpoints, good.Lease = []string{endpointOne}, 30*time.Second
	f, err := openClusterFiles(good)
	if err != nil {
		t.Fatal(err)
	}
	e := f.etcd(good, nil)
	if e.TLS.RootCAs == nil || e.TLS.GetClientCertificate == nil || e.User != "m1" || e.Timeout != 10*time.Second || !slices.Equal(e.Endpoints, good.Endpoints) {
		t.Errorf("%+v", e)
	}
	presented := func() []byte {
		t.Helper()
		c, err := e.TLS.GetClientCertificate(nil)
		if err != nil || len(c.Certificate) == 0 {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	before := presented()
	writeCertificate(t, in("m1.pem"), in("m1.key"), time.Now().Add(700*24*time.Hour))
	after := presented()
	write("m1.key", "half of one", 0o600)
	if again := presented(); bytes.Equal(before, after) || !bytes.Equal(before, again) {
		t.Error("a certificate that is replaced is not used, or one that cannot be read is")
	}
	if password, err := e.Password(); err != nil || password != "secret" {
		t.Errorf("%q, %v", password, err)
	}
	if _, err := etcd.New(e); err != nil {
		t.Error(err)
	}
	good.User, good.PasswordFile = "", ""
	if _, err := etcd.New(f.etcd(good, nil)); err != nil {
		t.Error(err)
	}
}
