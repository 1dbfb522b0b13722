package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// store is what a manager's own store and the cluster's have in common.
type store interface {
	Get(state.Key) ([]byte, uint64, error)
	List(prefix state.Key) ([]state.Entry, error)
	Swap(context.Context, ...state.Change) ([]uint64, error)
}

var (
	_ store = (*state.DB)(nil)
	_ store = (*cluster.Store)(nil)
)

// contract is what a store does, whichever it is. Each case begins with an empty one.
var contract = []struct {
	name string
	test func(*testing.T, store)
}{
	{"what was never stored", func(t *testing.T, s store) {
		if value, version, err := s.Get("a"); value != nil || version != 0 || err != nil {
			t.Errorf("%q, %d, %v", value, version, err)
		}
		if list, err := s.List(""); len(list) != 0 || err != nil {
			t.Errorf("%v, %v", list, err)
		}
		if versions, err := s.Swap(t.Context()); len(versions) != 0 || err != nil {
			t.Errorf("no changes: %v, %v", versions, err)
		}
	}},
	{"created, replaced, deleted, created", func(t *testing.T, s store) {
		last := uint64(0)
		for i, value := range []string{"1", "2", "", "3"} {
			var version uint64
			if i > 0 {
				version = last
			}
			last = mustSwap(t, s, state.Change{Key: "a", Version: version, Value: []byte(value)})[0]
			if last <= version {
				t.Errorf("version %d after %d", last, version)
			}
			want(t, s, "a", value, last)
		}
		if gone := mustSwap(t, s, state.Change{Key: "a", Version: last}); gone[0] != 0 {
			t.Errorf("deleted: version %d", gone[0])
		}
		if value, version, err := s.Get("a"); value != nil || version != 0 || err != nil {
			t.Errorf("deleted: %q, %d, %v", value, version, err)
		}
		if again := mustSwap(t, s, state.Change{Key: "a", Value: []byte("4")})[0]; again <= last {
			t.Errorf("created again: version %d after %d", again, last)
		}
	}},
	{"a version is above those of all records", func(t *testing.T, s store) {
		last := uint64(0)
		for n := range 10 {
			versions := mustSwap(t, s, state.Change{Key: state.Key(fmt.Sprint("a", n)), Value: []byte("x")}, state.Change{Key: state.Key(fmt.Sprint("b", n)), Value: []byte("x")})
			if slices.Min(versions) <= last {
				t.Errorf("%v after %d", versions, last)
			}
			last = slices.Max(versions)
		}
	}},
	{"all or none", func(t *testing.T, s store) {
		v := mustSwap(t, s, state.Change{Key: "a", Value: []byte("1")}, state.Change{Key: "b", Value: []byte("1")})
		newer := mustSwap(t, s, state.Change{Key: "b", Version: v[1], Value: []byte("2")})[0]
		conflict(t, s, state.ConflictError{Key: "b", Want: v[1], Have: newer},
			state.Change{Key: "c", Value: []byte("3")}, state.Change{Key: "a", Version: v[0]}, state.Change{Key: "b", Version: v[1], Value: []byte("3")})
		want(t, s, "a", "1", v[0])
		want(t, s, "b", "2", newer)
		if _, version, err := s.Get("c"); version != 0 || err != nil {
			t.Errorf("created all the same: %d, %v", version, err)
		}
	}},
	{"conflicts", func(t *testing.T, s store) {
		v := mustSwap(t, s, state.Change{Key: "a", Value: []byte("1")})[0]
		conflict(t, s, state.ConflictError{Key: "a", Have: v}, state.Change{Key: "a", Value: []byte("2")})
		conflict(t, s, state.ConflictError{Key: "a", Want: v + 1, Have: v}, state.Change{Key: "a", Version: v + 1, Value: []byte("2")})
		conflict(t, s, state.ConflictError{Key: "a", Want: v + 1, Have: v}, state.Change{Key: "a", Version: v + 1})
		conflict(t, s, state.ConflictError{Key: "b", Want: 1}, state.Change{Key: "b", Version: 1, Value: []byte("2")})
		conflict(t, s, state.ConflictError{Key: "b", Want: 1}, state.Change{Key: "b", Version: 1})
		if gone, err := s.Swap(t.Context(), state.Change{Key: "b"}); err != nil || gone[0] != 0 {
			t.Errorf("what is not there is deleted: %v, %v", gone, err)
		}
		want(t, s, "a", "1", v)
	}},
	{"values are copies", func(t *testing.T, s store) {
		value := []byte("1")
		v := mustSwap(t, s, state.Change{Key: "a", Value: value})[0]
		value[0] = 'x'
		want(t, s, "a", "1", v)
		got, _, err := s.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		got[0] = 'x'
		list, err := s.List("")
		if err != nil {
			t.Fatal(err)
		}
		list[0].Value[0] = 'x'
		want(t, s, "a", "1", v)
	}},
	{"a list is by key, of the prefix", func(t *testing.T, s store) {
		keys := []state.Key{"b", "a/2", "a/10", "a", "ab/1", "a/1", "c/\xff", "c/"}
		versions := map[state.Key]uint64{}
		for _, key := range keys {
			versions[key] = mustSwap(t, s, state.Change{Key: key, Value: []byte(key)})[0]
		}
		for prefix, want := range map[state.Key][]state.Key{
			"":   {"a", "a/1", "a/10", "a/2", "ab/1", "b", "c/", "c/\xff"},
			"a/": {"a/1", "a/10", "a/2"}, "a/1": {"a/1", "a/10"}, "a": {"a", "a/1", "a/10", "a/2", "ab/1"},
			"c": {"c/", "c/\xff"}, "d": nil, "a/3": nil,
		} {
			list, err := s.List(prefix)
			if err != nil {
				t.Fatal(err)
			}
			var got []state.Key
			for _, e := range list {
				got = append(got, e.Key)
				if string(e.Value) != string(e.Key) || e.Version != versions[e.Key] {
					t.Errorf("%q: %q, version %d, want %d", e.Key, e.Value, e.Version, versions[e.Key])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q: %q, want %q", prefix, got, want)
			}
		}
	}},
	{"limits", func(t *testing.T, s store) {
		for what, changes := range map[string][]state.Change{
			"a key of 0 bytes":   {{Value: []byte{}}},
			"a key of 513 bytes": {{Key: state.Key(strings.Repeat("k", 513)), Value: []byte{}}},
			"changed twice":      {{Key: "k", Value: []byte{}}, {Key: "k", Value: []byte{}}},
		} {
			if _, err := s.Swap(t.Context(), changes...); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
		long := state.Key(strings.Repeat("k", 512))
		value := strings.Repeat("v", 500<<10)
		v := mustSwap(t, s, state.Change{Key: long, Value: []byte(value)})[0]
		want(t, s, long, value, v)
		var many []state.Change
		for n := range cluster.MaxOps {
			many = append(many, state.Change{Key: state.Key(fmt.Sprint("many/", n)), Value: []byte("x")})
		}
		mustSwap(t, s, many...)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Swap(ctx, state.Change{Key: "k", Value: []byte{}}); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}},
	{"many at once", func(t *testing.T, s store) {
		const n = 50
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() {
				own := state.Key(fmt.Sprint("own/", i))
				if _, err := s.Swap(t.Context(), state.Change{Key: own, Value: []byte("x")}); err != nil {
					t.Error(err)
				}
				for {
					value, version, err := s.Get("shared")
					if err != nil {
						t.Error(err)
						return
					}
					_, err = s.Swap(t.Context(), state.Change{Key: "shared", Version: version, Value: append(value, 'x')})
					if err == nil {
						return
					}
					if !errors.Is(err, state.ErrConflict) {
						t.Error(err)
						return
					}
				}
			})
		}
		wait.Wait()
		if value, _, err := s.Get("shared"); len(value) != n || err != nil {
			t.Errorf("counted to %d, %v", len(value), err)
		}
		if list, err := s.List("own/"); len(list) != n || err != nil {
			t.Errorf("%d records of their own, %v", len(list), err)
		}
	}},
}

func mustSwap(t *testing.T, s store, changes ...state.Change) []uint64 {
	t.Helper()
	versions, err := s.Swap(t.Context(), changes...)
	if err != nil || len(versions) != len(changes) {
		t.Fatalf("storing %q: %v, %v", changes[0].Key, versions, err)
	}
	return versions
}

// want looks at a record.
func want(t *testing.T, s store, key state.Key, value string, version uint64) {
	t.Helper()
	got, have, err := s.Get(key)
	if string(got) != value || have != version || err != nil {
		t.Errorf("%.20q: %.20q, version %d, %v; want %.20q, %d", key, got, have, err, value, version)
	}
}

// conflict makes changes that must fail so.
func conflict(t *testing.T, s store, want state.ConflictError, changes ...state.Change) {
	t.Helper()
	_, err := s.Swap(t.Context(), changes...)
	var got *state.ConflictError
	if !errors.Is(err, state.ErrConflict) || !errors.As(err, &got) || *got != want {
		t.Errorf("%v, want %v", err, &want)
	}
}

func TestContractOfState(t *testing.T) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { c.test(t, statetest.Open(t, "")) })
	}
}

func TestContractOnFake(t *testing.T) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.test(t, open(t, clustertest.New().Client(), nil)) })
		})
		t.Run(c.name+", two managers", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := clustertest.New()
				key := cluster.NewKey()
				with := func(c *cluster.Config) { c.Key = key }
				c.test(t, alternating{open(t, f.Client(), with), open(t, f.Client(), with), new(bool), new(sync.Mutex)})
			})
		})
	}
}

// alternating is a store of two managers that change it in turn. Each reads what it was about
// to change anyway, as the other one's changes are seen later.
type alternating struct {
	a, b *cluster.Store
	turn *bool
	mu   *sync.Mutex
}

func (s alternating) next() *cluster.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *s.turn = !*s.turn; *s.turn {
		return s.a
	}
	return s.b
}

func (s alternating) Get(key state.Key) ([]byte, uint64, error) {
	one := s.next()
	if err := one.Fresh(context.Background(), key); err != nil {
		return nil, 0, err
	}
	return one.Get(key)
}

func (s alternating) List(prefix state.Key) ([]state.Entry, error) {
	one := s.next()
	if err := one.Fresh(context.Background()); err != nil {
		return nil, err
	}
	return one.List(prefix)
}

func (s alternating) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	return s.next().Swap(ctx, changes...)
}

var testKey = cluster.NewKey()

// open opens a store that is ready and closed when the test ends.
func open(t testing.TB, engine cluster.Engine, with func(*cluster.Config)) *cluster.Store {
	t.Helper()
	s := openNow(t, engine, with)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// openNow does not wait.
func openNow(t testing.TB, engine cluster.Engine, with func(*cluster.Config)) *cluster.Store {
	t.Helper()
	cfg := cluster.Config{Engine: engine, Key: testKey, Name: "main"}
	if with != nil {
		with(&cfg)
	}
	s, err := cluster.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
