package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
)

// engine returns a connection to a lab.
func engine(t testing.TB, l *etcdlab.Lab) *cluster.Etcd {
	t.Helper()
	e, err := cluster.NewEtcd(etcd.Config{Endpoints: l.Endpoints(), TLS: l.TLS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// until waits for something to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for !f() {
		select {
		case <-t.Context().Done():
			t.Fatal("waiting until", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestContractOnEtcd(t *testing.T) {
	l := etcdtest.Start(t, etcdlab.Config{})
	for i, c := range contract {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, open(t, engine(t, l), func(cfg *cluster.Config) { cfg.Name = fmt.Sprint("one ", i) }))
		})
		t.Run(c.name+", two managers", func(t *testing.T) {
			with := func(cfg *cluster.Config) { cfg.Name = fmt.Sprint("two ", i) }
			c.test(t, alternating{open(t, engine(t, l), with), open(t, engine(t, l), with), new(bool), new(sync.Mutex)})
		})
	}
}

// What others write comes by the watch, over a compaction and the death of a leader; a record
// on a lease goes.
func TestOthersOnEtcd(t *testing.T) {
	l := etcdtest.Start(t, etcdlab.Config{Members: 3})
	ea := engine(t, l)
	a, b := open(t, ea, nil), open(t, engine(t, l), nil)
	has := func(key state.Key, value string) func() bool {
		return func() bool {
			got, version, err := b.Get(key)
			return err == nil && (version != 0) == (value != "") && string(got) == value
		}
	}
	lease, err := ea.Grant(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.SwapLeased(t.Context(), lease, state.Change{Key: "member/a", Value: []byte("here")}); err != nil {
		t.Fatal(err)
	}
	until(t, "b sees the member", has("member/a", "here"))
	v := mustSwap(t, a, state.Change{Key: "k", Value: []byte("1")})[0]
	until(t, "b sees the record", has("k", "1"))
	revision, err := l.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Compact(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	leader, err := l.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.Kill(leader)
	for {
		_, err := a.Swap(t.Context(), state.Change{Key: "k", Version: v, Value: []byte("2")})
		if err == nil {
			break
		}
		if errors.Is(err, state.ErrConflict) { // an answer was lost
			want(t, a, "k", "2", version(t, a, "k"))
			break
		}
		t.Log(err)
	}
	until(t, "b sees the change", has("k", "2"))
	until(t, "the lease ends", has("member/a", ""))
	if _, err := a.SwapLeased(t.Context(), lease, state.Change{Key: "member/a", Value: []byte("here")}); !errors.Is(err, cluster.ErrLeaseLost) {
		t.Errorf("a lease that ended: %v", err)
	}
	until(t, "b is sure", func() bool { return b.Err() == nil })
}

// An etcd that was wiped holds everything up until it is restored, whether or not it says that
// it is another one.
func TestWipedOnEtcd(t *testing.T) {
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprint(same), func(t *testing.T) {
			l := etcdtest.Start(t, etcdlab.Config{})
			a, b := open(t, engine(t, l), nil), open(t, engine(t, l), nil)
			var changes []state.Change
			for n := range cluster.MaxOps {
				changes = append(changes, state.Change{Key: state.Key(fmt.Sprint("service/", n)), Value: []byte("1")})
			}
			v := mustSwap(t, a, changes...)
			until(t, "b sees them", func() bool { list, err := b.List(""); return err == nil && len(list) == len(changes) })
			if err := l.Wipe(t.Context(), same); err != nil {
				t.Fatal(err)
			}
			until(t, "both know", func() bool { return errors.Is(a.Err(), cluster.ErrWiped) && errors.Is(b.Err(), cluster.ErrWiped) })
			if _, err := a.Swap(t.Context(), state.Change{Key: "new", Value: []byte("1")}); !errors.Is(err, cluster.ErrWiped) {
				t.Errorf("storing: %v", err)
			}
			want(t, b, "service/7", "1", v[7])
			entries, err := b.List("")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Restore(t.Context(), entries); err != nil {
				t.Fatal(err)
			}
			until(t, "a goes on", func() bool { return a.Err() == nil })
			mustSwap(t, a, state.Change{Key: "service/7", Version: version(t, a, "service/7"), Value: []byte("2")})
			if list, err := a.List(""); len(list) != len(changes) || err != nil {
				t.Errorf("%d records, %v", len(list), err)
			}
		})
	}
}

// A user who may use the cluster's prefix alone can do everything. With TLS.
func TestUserOnEtcd(t *testing.T) {
	prefix, err := cluster.Prefix(testKey, "main")
	if err != nil {
		t.Fatal(err)
	}
	l := etcdtest.Start(t, etcdlab.Config{TLS: true, ClientCert: true, Users: []etcdlab.User{{Name: "m1", Password: "secret of m1", Prefix: prefix}}})
	as := func(password string) *cluster.Etcd {
		e, err := cluster.NewEtcd(etcd.Config{Endpoints: l.Endpoints(), TLS: l.TLS(), User: "m1", Password: func() (string, error) { return password, nil }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		return e
	}
	a, b := open(t, as("secret of m1"), nil), open(t, as("secret of m1"), nil)
	v := mustSwap(t, a, state.Change{Key: "k", Value: []byte("1")})[0]
	until(t, "b sees it", func() bool { _, version, err := b.Get("k"); return err == nil && version == v })
	if err := openNow(t, as("wrong"), nil).Ready(t.Context()); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("a wrong password: %v", err)
	}
	other := openNow(t, as("secret of m1"), func(c *cluster.Config) { c.Name = "other" })
	if err := other.Ready(t.Context()); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("another cluster's prefix: %v", err)
	}
}

// Nothing readable is in what etcd has on its disk.
func TestNothingReadableOnEtcd(t *testing.T) {
	l := etcdtest.Start(t, etcdlab.Config{Args: []string{"--snapshot-count=50"}})
	names := []string{"cluster-of-many", "manager-in-basement", "customers-of-shard"}
	s := open(t, engine(t, l), func(c *cluster.Config) { c.Name = names[0] })
	var addresses []descriptor.Address
	for n := range byte(100) {
		a := address(t, n)
		addresses = append(addresses, a)
		put, err := state.Put(state.ServiceKey(a), 0, state.Service{Owner: names[1], Points: []state.Published{{Instance: state.Address(a), AuthKey: state.Bytes32(a)}}})
		if err != nil {
			t.Fatal(err)
		}
		v := mustSwap(t, s, put)[0]
		mustSwap(t, s, state.Change{Key: put.Key, Version: v}, state.Change{Key: state.Key("member/" + names[1] + fmt.Sprint(n)), Value: []byte(names[2])})
	}
	prefix, err := cluster.Prefix(testKey, names[0])
	if err != nil {
		t.Fatal(err)
	}
	files, ours := 0, false
	err = filepath.WalkDir(l.DataDir(0), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		ours = ours || strings.Contains(string(content), prefix)
		for _, found := range clustertest.Readable(content, addresses, names) {
			t.Errorf("%s: %s", path, found)
		}
		return nil
	})
	if err != nil || files < 2 || !ours {
		t.Errorf("%d files, %v: it shows nothing", files, err)
	}
}

func BenchmarkEtcd10000(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	l, err := etcdlab.Start(ctx, etcdlab.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Stop()
	s := open(b, engine(b, l), nil)
	value, versions := realistic(b), make([]uint64, many)
	for _, size := range []int{200, len(value)} {
		b.Run(fmt.Sprint("swap ", size), func(b *testing.B) {
			before := s.Stats()
			for b.Loop() {
				swapAll(b, s, value[:size], versions)
			}
			stats := s.Stats()
			sent := float64(stats.Sent - before.Sent)
			b.ReportMetric(float64(stats.Swaps.Made-before.Swaps.Made)/sent, "swaps/transaction")
			b.ReportMetric(float64((stats.Took-before.Took).Milliseconds())/sent, "ms/transaction")
		})
	}
	b.Run("reread", func(b *testing.B) {
		for b.Loop() {
			if err := s.Fresh(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			v, err := s.Swap(b.Context(), state.Change{Key: manyKey(0), Version: versions[0], Value: value})
			if err != nil {
				b.Fatal(err)
			}
			versions[0] = v[0]
		}
	})
}
