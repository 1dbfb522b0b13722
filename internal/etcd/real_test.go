package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"onionbalancer/internal/etcd"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/etcdlab/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// sure is for calls that have to succeed, though the machine is busy.
	sure = time.Minute
	// patience is for calls that may hang.
	patience = 3 * time.Second
)

func client(t *testing.T, config etcd.Config) *etcd.Client {
	t.Helper()
	if config.Timeout == 0 {
		config.Timeout = sure
	}
	c, err := etcd.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// put makes a change that has to succeed, and returns its revision.
func put(t *testing.T, c *etcd.Client, ops ...etcd.Op) int64 {
	t.Helper()
	r, err := c.Txn(t.Context(), ops)
	if err != nil || !r.Made {
		t.Fatalf("made %v, %v: %v", r.Made, r.KVs, err)
	}
	return r.Revision
}

// until calls f again until it gives no error.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
		t.Logf("%s: %v", what, err)
	}
}

type change struct {
	revision int64
	kvs      []etcd.KV
}

// watching is a watch that runs.
type watching struct {
	t       *testing.T
	changes chan change
	ended   chan error
	stop    func()
}

// watch watches until the watch breaks.
func watch(t *testing.T, c *etcd.Client, prefix string, from int64) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{t: t, changes: make(chan change, 1000), ended: make(chan error, 1), stop: cancel}
	t.Cleanup(cancel)
	go func() {
		w.ended <- c.Watch(ctx, prefix, from, func(revision int64, kvs []etcd.KV) { w.changes <- change{revision, kvs} })
	}()
	return w
}

// begun returns a watch that has told of the change at from.
func begun(t *testing.T, c *etcd.Client, prefix string, from int64) *watching {
	t.Helper()
	for {
		w := watch(t, c, prefix, from)
		select {
		case <-w.changes:
			return w
		case err := <-w.ended:
			t.Log(err)
		}
	}
}

// follow watches, and goes on where the watch breaks.
func follow(t *testing.T, c *etcd.Client, prefix string, from int64) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{t: t, changes: make(chan change, 1000), ended: make(chan error, 1), stop: cancel}
	t.Cleanup(cancel)
	go func() {
		for {
			err := c.Watch(ctx, prefix, from, func(revision int64, kvs []etcd.KV) {
				from = revision + 1
				w.changes <- change{revision, kvs}
			})
			if ctx.Err() != nil || !errors.Is(err, etcd.ErrUnavailable) {
				w.ended <- err
				return
			}
		}
	}()
	return w
}

// next returns the next changes.
func (w *watching) next() change {
	w.t.Helper()
	for {
		select {
		case c := <-w.changes:
			if len(c.kvs) > 0 {
				return c
			}
		case err := <-w.ended:
			w.t.Fatalf("the watch ended: %v", err)
		}
	}
}

// upTo waits until nothing was missed up to a revision.
func (w *watching) upTo(revision int64) {
	w.t.Helper()
	for {
		select {
		case c := <-w.changes:
			if c.revision >= revision {
				return
			}
		case err := <-w.ended:
			w.t.Fatalf("the watch ended: %v", err)
		}
	}
}

func want(t *testing.T, err error, kinds ...error) {
	t.Helper()
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			t.Log(err)
			return
		}
	}
	t.Errorf("%v, want one of %v", err, kinds)
}

func TestOne(t *testing.T) {
	t.Parallel()
	l := etcdtest.Start(t, etcdlab.Config{Unix: true})
	c := client(t, etcd.Config{Endpoints: []string{l.Socket(0), "http://127.0.0.1:1"}})
	ctx := t.Context()

	t.Run("Swap", func(t *testing.T) {
		first := put(t, c, etcd.Op{Key: "swap/a", Value: []byte("1")})
		second := put(t, c, etcd.Op{Key: "swap/a", Want: first, Value: []byte{}}, etcd.Op{Key: "swap/b", Value: []byte("2")})
		r, err := c.Txn(ctx, []etcd.Op{{Key: "swap/a", Want: first, Value: []byte("3")}, {Key: "swap/none", Value: []byte("4")}})
		if err != nil || r.Made || r.Revision != second {
			t.Fatalf("a stale swap: %+v, %v", r, err)
		}
		if a := r.KVs[0]; a.Key != "swap/a" || a.Revision != second || a.Value == nil || len(a.Value) > 0 {
			t.Errorf("the present state: %+v", a)
		}
		if none := r.KVs[1]; none.Key != "swap/none" || none.Revision != 0 || none.Value != nil {
			t.Errorf("the present state of no key: %+v", none)
		}
		kvs, revision, err := c.Range(ctx, "swap/")
		if err != nil || len(kvs) != 2 || revision != second || string(kvs[1].Value) != "2" {
			t.Errorf("%+v at %d, %v", kvs, revision, err)
		}
		third := put(t, c, etcd.Op{Key: "swap/a", Want: etcd.Any}, etcd.Op{Key: "swap/b", Want: second, Value: []byte("5")})
		if kvs, revision, err = c.Range(ctx, "swap/"); err != nil || len(kvs) != 1 || revision != third {
			t.Errorf("%+v at %d, %v", kvs, revision, err)
		}
		if _, err := c.Txn(ctx, []etcd.Op{{Key: "swap/a"}, {Key: "swap/a", Value: []byte("b")}, {Key: "swap/a", Value: []byte("c")}}); err == nil ||
			errors.Is(err, etcd.ErrUnknown) || errors.Is(err, etcd.ErrUnavailable) {
			t.Errorf("a key twice: %v", err)
		}
	})

	t.Run("Pages", func(t *testing.T) {
		const count = 1001
		for done := 0; done < count; {
			var ops []etcd.Op
			for ; done < count && len(ops) < etcd.MaxOps; done++ {
				ops = append(ops, etcd.Op{Key: fmt.Sprintf("pages/%04d", done), Value: []byte("v")})
			}
			put(t, c, ops...)
		}
		put(t, c, etcd.Op{Key: "pages0", Value: []byte("follows them all")})
		kvs, _, err := c.Range(ctx, "pages/")
		if err != nil || len(kvs) != count || kvs[count-1].Key != "pages/1000" {
			t.Errorf("%d keys, %v", len(kvs), err)
		}
		all, _, err := c.Range(ctx, "")
		if err != nil || len(all) <= count+1 {
			t.Errorf("%d keys of all, %v", len(all), err)
		}
	})

	// A watch is told of 3 MiB in fragments.
	t.Run("Fragments", func(t *testing.T) {
		value := []byte(strings.Repeat("x", 1<<20))
		var first int64
		for i := range 3 {
			revision := put(t, c, etcd.Op{Key: fmt.Sprintf("large/%02d", i), Value: value}, etcd.Op{Key: fmt.Sprintf("large/%02d.", i), Value: []byte{}})
			if i == 0 {
				first = revision
			}
		}
		kvs, _, err := c.Range(ctx, "large/")
		if err != nil || len(kvs) != 6 || len(kvs[4].Value) != len(value) {
			t.Errorf("%d keys, %v", len(kvs), err)
		}
		w := follow(t, c, "large/", first)
		for i := range int64(3) {
			if c := w.next(); c.revision != first+i || len(c.kvs) != 2 || len(c.kvs[0].Value) != len(value) {
				t.Fatalf("change %d: %d keys at %d", i, len(c.kvs), c.revision)
			}
		}
	})

	t.Run("Watch", func(t *testing.T) {
		soon := client(t, etcd.Config{Endpoints: l.Endpoints(), Timeout: time.Second}) // is it quiet
		first := put(t, c, etcd.Op{Key: "watch/a", Value: []byte("1")})
		w := follow(t, soon, "watch/", first)
		if c := w.next(); c.revision != first || string(c.kvs[0].Value) != "1" {
			t.Errorf("%+v", c)
		}
		second := put(t, c, etcd.Op{Key: "watch/a", Want: first}, etcd.Op{Key: "watch/b", Value: []byte{}})
		c2 := w.next()
		if c2.revision != second || len(c2.kvs) != 2 || c2.kvs[0].Value != nil || c2.kvs[1].Value == nil || c2.kvs[0].Revision != second {
			t.Errorf("%+v", c2)
		}
		// Changes of other keys are not told of; but that they are others is seen.
		w.upTo(put(t, c, etcd.Op{Key: "unwatched", Want: etcd.Any, Value: []byte("1")}))
		w.stop()
		want(t, <-w.ended, context.Canceled)
	})

	t.Run("Lease", func(t *testing.T) {
		id, err := c.Grant(ctx, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if lasts, err := c.KeepAlive(ctx, id); err != nil || lasts < 5*time.Second {
			t.Fatalf("%v, %v", lasts, err)
		}
		w := follow(t, c, "lease/", put(t, c, etcd.Op{Key: "lease/a", Value: []byte("1"), Lease: id}))
		if c := w.next(); c.kvs[0].Lease != id {
			t.Errorf("%+v", c)
		}
		if c := w.next(); c.kvs[0].Value != nil {
			t.Errorf("%+v", c)
		}
		_, err = c.KeepAlive(ctx, id)
		want(t, err, etcd.ErrLeaseLost)
		_, err = c.Txn(ctx, []etcd.Op{{Key: "lease/b", Value: []byte("1"), Lease: id}})
		want(t, err, etcd.ErrLeaseLost)

		if id, err = c.Grant(ctx, time.Hour); err != nil {
			t.Fatal(err)
		}
		put(t, c, etcd.Op{Key: "lease/c", Value: []byte("1"), Lease: id})
		for range 2 {
			if err := c.Revoke(ctx, id); err != nil {
				t.Error(err)
			}
		}
		if c := w.next(); c.kvs[0].Key != "lease/c" {
			t.Errorf("%+v", c)
		}
		if c := w.next(); c.kvs[0].Key != "lease/c" || c.kvs[0].Value != nil {
			t.Errorf("%+v", c)
		}
	})

	t.Run("Compacted", func(t *testing.T) {
		for _, e := range []string{l.Socket(0), l.Endpoints()[0]} {
			c := client(t, etcd.Config{Endpoints: []string{e}})
			revision := put(t, c, etcd.Op{Key: "compacted/a", Want: etcd.Any, Value: []byte("1")})
			put(t, c, etcd.Op{Key: "compacted/a", Want: revision, Value: []byte("2")})
			if err := l.Compact(ctx, revision+1); err != nil {
				t.Fatal(err)
			}
			want(t, c.Watch(ctx, "compacted/", revision, func(int64, []etcd.KV) {}), etcd.ErrCompacted)
		}
	})

	// The answers are lost; what the other endpoint would say is not asked.
	t.Run("AnswerLost", func(t *testing.T) {
		p := newProxy(t, strings.TrimPrefix(l.Endpoints()[0], "http://"))
		c := client(t, etcd.Config{Endpoints: []string{"http://" + p.address(), l.Endpoints()[0]}})
		first := put(t, c, etcd.Op{Key: "lost/a", Value: []byte("1")})
		p.cut.Store(true)
		_, err := c.Txn(ctx, []etcd.Op{{Key: "lost/a", Want: first, Value: []byte("2")}})
		want(t, err, etcd.ErrUnknown)
		if errors.Is(err, etcd.ErrUnavailable) {
			t.Errorf("%v says that nothing was changed", err)
		}
		kvs, _, err := c.Range(ctx, "lost/")
		if err != nil || len(kvs) != 1 || kvs[0].Revision != first+1 || string(kvs[0].Value) != "2" {
			t.Errorf("%+v, %v", kvs, err)
		}
	})

	t.Run("Status", func(t *testing.T) {
		c := client(t, etcd.Config{Endpoints: l.Endpoints()})
		s, err := c.Status(ctx, l.Endpoints()[0])
		if err != nil || s.Version == "" || s.Cluster == 0 || s.Leader != s.Member || s.Size <= 0 || s.InUse <= 0 || s.Term == 0 {
			t.Errorf("%+v, %v", s, err)
		}
		if alarms, err := c.Alarms(ctx); err != nil || len(alarms) > 0 {
			t.Errorf("%+v, %v", alarms, err)
		}
		if o, err := c.Openness(ctx, l.Endpoints()[0], "a/"); err != nil || o != (etcd.Openness{Plain: true, NoCertificate: true, NoUser: true}) {
			t.Errorf("%+v, %v", o, err)
		}
	})

	// Who has a user is not asked for it while etcd has none.
	t.Run("NoUsers", func(t *testing.T) {
		c := client(t, etcd.Config{Endpoints: l.Endpoints(), User: "m1", Password: func() (string, error) {
			t.Error("asked for the password")
			return "", nil
		}})
		if _, _, err := c.Range(ctx, "a/"); err != nil {
			t.Error(err)
		}
	})

	// A wiped etcd is another cluster unless it was started with the same arguments.
	t.Run("Wiped", func(t *testing.T) {
		c := client(t, etcd.Config{Endpoints: l.Endpoints()})
		put(t, c, etcd.Op{Key: "wiped/a", Value: []byte("1")})
		if err := l.Wipe(ctx, true); err != nil {
			t.Fatal(err)
		}
		until(t, "reading again", func() error {
			kvs, revision, err := c.Range(ctx, "wiped/")
			if err == nil && (len(kvs) > 0 || revision != 1) {
				t.Errorf("%d keys at %d", len(kvs), revision)
			}
			return err
		})
		if err := l.Wipe(ctx, false); err != nil {
			t.Fatal(err)
		}
		_, _, err := c.Range(ctx, "wiped/")
		want(t, err, etcd.ErrOtherCluster)
		_, err = c.Txn(ctx, []etcd.Op{{Key: "wiped/a", Value: []byte("1")}})
		want(t, err, etcd.ErrOtherCluster)
	})
}

func TestThree(t *testing.T) {
	t.Parallel()
	l := etcdtest.Start(t, etcdlab.Config{Members: 3})
	ctx := t.Context()
	// first returns the endpoints, this one first.
	first := func(i int) []string {
		e := l.Endpoints()
		return append([]string{e[i]}, append(e[:i:i], e[i+1:]...)...)
	}
	c := client(t, etcd.Config{Endpoints: l.Endpoints()})
	leader := func() int {
		t.Helper()
		i, err := l.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}

	t.Run("Race", func(t *testing.T) {
		clients := []*etcd.Client{client(t, etcd.Config{Endpoints: first(0)}), client(t, etcd.Config{Endpoints: first(1)})}
		var revision int64
		for round := range 50 {
			var won atomic.Int64
			var wg sync.WaitGroup
			before := revision
			for i, c := range clients {
				wg.Go(func() {
					r, err := c.Txn(ctx, []etcd.Op{{Key: "race", Want: before, Value: fmt.Append(nil, i)}})
					if err != nil {
						t.Errorf("round %d: %v", round, err)
					}
					if r.Made {
						won.Add(1)
						revision = r.Revision // the race detector sees if two win
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Fatalf("round %d: %d won", round, won.Load())
			}
		}
	})

	// The leader dies, which is where the lease was kept alive and the watch was.
	t.Run("LeaderKilled", func(t *testing.T) {
		dead := leader()
		there := client(t, etcd.Config{Endpoints: first(dead)[:1]})
		hurried := client(t, etcd.Config{Endpoints: first(dead), Timeout: patience})
		id, err := c.Grant(ctx, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		before := put(t, c, etcd.Op{Key: "killed/a", Value: []byte("1"), Lease: id})
		w := begun(t, there, "killed/", before)
		if _, err := hurried.KeepAlive(ctx, id); err != nil {
			t.Log(err)
		}
		l.Kill(dead)
		want(t, <-w.ended, etcd.ErrUnavailable)
		until(t, "keeping the lease alive", func() error {
			_, err := hurried.KeepAlive(ctx, id)
			if errors.Is(err, etcd.ErrLeaseLost) {
				t.Fatal(err)
			}
			return err
		})
		value := 1
		until(t, "swapping", func() error { // one of which it is not known may be made later
			value++
			_, err := hurried.Txn(ctx, []etcd.Op{{Key: "killed/a", Want: etcd.Any, Value: fmt.Append(nil, value), Lease: id}})
			return err
		})
		w = follow(t, hurried, "killed/", before+1)
		for {
			if c := w.next(); string(c.kvs[0].Value) == fmt.Sprint(value) {
				break
			}
		}
		w.stop()
		if err := l.Restart(dead); err != nil {
			t.Fatal(err)
		}
	})

	// A paused etcd answers nothing, but its connections stay.
	t.Run("Paused", func(t *testing.T) {
		for _, who := range []string{"follower", "leader"} {
			paused := leader()
			if who == "follower" {
				paused = (paused + 1) % 3
			}
			hurried := client(t, etcd.Config{Endpoints: first(paused), Timeout: patience})
			there := client(t, etcd.Config{Endpoints: first(paused)[:1], Timeout: patience})
			key := "paused/" + who
			id, err := c.Grant(ctx, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			revision := put(t, c, etcd.Op{Key: key, Value: []byte("1"), Lease: id})
			w := begun(t, there, key, revision)
			if _, err := hurried.KeepAlive(ctx, id); err != nil { // it has a connection there
				t.Log(err)
			}
			if err := l.Pause(paused); err != nil {
				t.Fatal(err)
			}
			if _, err = hurried.Txn(ctx, []etcd.Op{{Key: key, Want: revision, Value: []byte("2"), Lease: id}}); err != nil {
				want(t, err, etcd.ErrUnknown, etcd.ErrUnavailable)
			}
			want(t, <-w.ended, etcd.ErrUnavailable)
			until(t, "keeping the lease alive", func() error {
				_, err := hurried.KeepAlive(ctx, id)
				if errors.Is(err, etcd.ErrLeaseLost) {
					t.Fatal(err)
				}
				return err
			})
			until(t, "reading", func() error { _, _, err := hurried.Range(ctx, key); return err })
			until(t, "swapping", func() error {
				_, err := hurried.Txn(ctx, []etcd.Op{{Key: key, Want: etcd.Any, Value: []byte("3"), Lease: id}})
				return err
			})
			if err := l.Resume(paused); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("NoQuorum", func(t *testing.T) {
		left := (leader() + 1) % 3
		revision := put(t, c, etcd.Op{Key: "quorum/a", Value: []byte("1")})
		w := begun(t, client(t, etcd.Config{Endpoints: first(left)[:1], Timeout: patience}), "quorum/", revision)
		c := client(t, etcd.Config{Endpoints: first(left), Timeout: time.Second})
		for i := range 3 {
			if i != left {
				l.Kill(i)
			}
		}
		want(t, <-w.ended, etcd.ErrUnavailable) // the etcd at which it is runs on
		_, _, err := c.Range(ctx, "quorum/")
		want(t, err, etcd.ErrUnavailable)
		_, err = c.Txn(ctx, []etcd.Op{{Key: "quorum/a", Want: revision, Value: []byte("2")}})
		want(t, err, etcd.ErrUnavailable, etcd.ErrUnknown)
		_, err = c.Grant(ctx, time.Minute)
		want(t, err, etcd.ErrUnavailable)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, _, err = c.Range(short, "quorum/")
		want(t, err, etcd.ErrUnavailable)
		want(t, err, context.DeadlineExceeded)
		until(t, "seeing that there is no leader", func() error {
			s, err := c.Status(ctx, l.Endpoints()[left])
			if err == nil && (s.Leader != 0 || len(s.Errors) == 0) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
		for i := range 3 {
			if i != left {
				if err := l.Restart(i); err != nil {
					t.Fatal(err)
				}
			}
		}
		until(t, "reading", func() error { _, _, err := c.Range(ctx, "quorum/"); return err })
	})
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	l := etcdtest.Start(t, etcdlab.Config{Quota: 4 << 20})
	c := client(t, etcd.Config{Endpoints: l.Endpoints()})
	ctx := t.Context()
	id, err := c.Grant(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	value := []byte(strings.Repeat("x", 200<<10))
	revision := put(t, c, etcd.Op{Key: "a", Value: value})
	for {
		r, err := c.Txn(ctx, []etcd.Op{{Key: "a", Want: revision, Value: value}})
		if err != nil {
			want(t, err, etcd.ErrNoSpace)
			want(t, err, etcd.ErrUnknown)
			break
		}
		revision = r.Revision
	}
	if _, err := c.KeepAlive(ctx, id); err != nil {
		t.Error(err)
	}
	_, err = c.Grant(ctx, time.Minute)
	want(t, err, etcd.ErrNoSpace)
	if alarms, err := c.Alarms(ctx); err != nil || len(alarms) != 1 || alarms[0].Kind != "NOSPACE" {
		t.Errorf("%v, %v", alarms, err)
	}
	kvs, now, err := c.Range(ctx, "a")
	if err != nil || len(kvs) != 1 {
		t.Fatalf("%v, %v", kvs, err)
	}
	t.Logf("the refused swap was made: %v", kvs[0].Revision != revision)
	put(t, c, etcd.Op{Key: "a", Want: kvs[0].Revision})
	if err := l.Compact(ctx, now+1); err != nil {
		t.Fatal(err)
	}
	if err := l.Defrag(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Disarm(ctx); err != nil {
		t.Fatal(err)
	}
	put(t, c, etcd.Op{Key: "a", Value: value})
}

// TestTokenOfLostData: a token of an etcd that lost its data since is not kept, though the etcd
// never refuses it.
func TestTokenOfLostData(t *testing.T) {
	t.Parallel()
	l := etcdtest.Start(t, etcdlab.Config{Users: []etcdlab.User{{Name: "m1", Password: "sesame-4711", Prefix: "/balancer/"}}})
	config := etcd.Config{Endpoints: l.Endpoints(), User: "m1", Password: func() (string, error) { return "sesame-4711", nil }, Timeout: time.Second}
	other := client(t, config)
	for range 50 {
		put(t, other, etcd.Op{Key: "/balancer/a", Want: -1, Value: []byte("1")})
	}
	c := client(t, config)
	if _, _, err := c.Range(t.Context(), "/balancer/"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Wipe(t.Context(), true), l.EnableUsers(t.Context())); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 20 {
		var kvs []etcd.KV
		if kvs, _, err = c.Range(t.Context(), "/balancer/"); err == nil {
			if len(kvs) != 0 {
				t.Errorf("it has %v", kvs)
			}
			return
		}
	}
	t.Error(err)
}

func TestUsers(t *testing.T) {
	t.Parallel()
	l := etcdtest.Start(t, etcdlab.Config{ClientCert: true, Unix: true, Users: []etcdlab.User{{Name: "m1", Password: "sesame-4711", Prefix: "/balancer/main/"}}})
	ctx := t.Context()
	password, asked := "sesame-4711", 0
	config := etcd.Config{Endpoints: l.Endpoints(), TLS: l.TLS(), User: "m1", Password: func() (string, error) {
		asked++
		return password, nil
	}}
	c := client(t, config)

	const key = "/balancer/main/s/a"
	revision := put(t, c, etcd.Op{Key: key, Value: []byte("1")})
	w := begun(t, c, "/balancer/main/", revision)
	if _, _, err := c.Range(ctx, "/balancer/main/"); err != nil {
		t.Error(err)
	}
	_, _, err := c.Range(ctx, "/balancer/")
	want(t, err, etcd.ErrDenied)
	_, err = c.Txn(ctx, []etcd.Op{{Key: "/other", Value: []byte("1")}})
	want(t, err, etcd.ErrDenied)
	want(t, c.Watch(ctx, "/other", 1, func(int64, []etcd.KV) {}), etcd.ErrDenied)
	if _, err := c.Alarms(ctx); err != nil {
		t.Error(err)
	}
	if o, err := c.Openness(ctx, l.Endpoints()[0], "/balancer/main/"); err != nil || o != (etcd.Openness{}) {
		t.Errorf("%+v, %v", o, err)
	}
	if asked != 1 {
		t.Errorf("authenticated %d times", asked)
	}

	l.Kill(0)
	want(t, <-w.ended, etcd.ErrUnavailable)
	if err := l.Restart(0); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Leader(ctx); err != nil {
		t.Fatal(err)
	}
	w = begun(t, c, "/balancer/main/", revision)
	put(t, c, etcd.Op{Key: key, Want: revision, Value: []byte("2")})
	w.stop()
	want(t, <-w.ended, context.Canceled)

	// A user's tokens end with the user.
	before := asked
	if err := l.DeleteUser(ctx, "m1"); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Range(ctx, "/balancer/main/")
	want(t, err, etcd.ErrDenied)
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("%v has the password", err)
	}
	password = "sesame-4712"
	if err := l.AddUser(ctx, etcdlab.User{Name: "m1", Password: password, Prefix: "/balancer/main/"}); err != nil {
		t.Fatal(err)
	}
	begun(t, c, "/balancer/main/", revision) // a watch authenticates, too
	if _, _, err = c.Range(ctx, "/balancer/main/"); err != nil {
		t.Error(err)
	}
	if asked != before+2 {
		t.Errorf("authenticated %d times since, want one that was refused and one", asked-before)
	}

	local := config
	local.Endpoints = []string{l.Socket(0)}
	if _, _, err = client(t, local).Range(ctx, "/balancer/main/"); err != nil {
		t.Error(err)
	}
	nobody := config
	nobody.User, nobody.Password = "", nil
	_, _, err = client(t, nobody).Range(ctx, "/balancer/main/")
	want(t, err, etcd.ErrDenied)
	bare := config
	bare.TLS = l.TLS()
	bare.TLS.Certificates = nil
	_, _, err = client(t, bare).Range(ctx, "/balancer/main/")
	want(t, err, etcd.ErrDenied, etcd.ErrUnavailable)
	strange := config
	strange.TLS, strange.Timeout = nil, time.Second
	_, _, err = client(t, strange).Range(ctx, "/balancer/main/")
	want(t, err, etcd.ErrUnavailable)
}

// proxy passes connections on to an etcd. When cut is set it takes requests to etcd, and
// ends connections in place of passing the answers.
type proxy struct {
	listener net.Listener
	cut      atomic.Bool
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func newProxy(t *testing.T, to string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				wg.Go(func() {
					io.Copy(out, in)
					out.Close()
				})
				buffer := make([]byte, 64<<10)
				for {
					n, err := out.Read(buffer)
					if err != nil || p.cut.Load() {
						return
					}
					in.Write(buffer[:n])
				}
			})
		}
	})
	t.Cleanup(func() {
		p.cut.Store(true)
		listener.Close()
	})
	return p
}
