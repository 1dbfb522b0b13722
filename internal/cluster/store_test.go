package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
)

// scene is an engine with managers a and b, in a bubble.
type scene struct {
	f      *clustertest.Fake
	ca, cb *clustertest.Client
	a, b   *cluster.Store
	log    lockedBuffer // a's
}

func inScene(t *testing.T, test func(*testing.T, *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{f: clustertest.New()}
		s.ca, s.cb = s.f.Client(), s.f.Client()
		s.a = open(t, s.ca, func(c *cluster.Config) { c.Log = slog.New(slog.NewTextHandler(&s.log, nil)) })
		s.b = open(t, s.cb, nil)
		test(t, s)
	})
}

// lockedBuffer is for a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// soon waits until what the watch has to bring must be there.
func soon() { time.Sleep(time.Second); synctest.Wait() }

// wantErr looks at an error, nil for none.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// What one manager writes, the other sees, and is told of.
func TestOthers(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		var told [][]state.Key
		stop := s.b.Subscribe("service/", func(changed []state.Key) { told = append(told, changed) })
		v := mustSwap(t, s.a, state.Change{Key: "service/2", Value: []byte("2")}, state.Change{Key: "service/1", Value: []byte("1")}, state.Change{Key: "operator/1", Value: []byte("o")})
		soon()
		want(t, s.b, "service/1", "1", v[1])
		want(t, s.b, "operator/1", "o", v[2])
		mustSwap(t, s.b, state.Change{Key: "service/1", Version: v[1]}) // its own
		soon()
		want(t, s.a, "service/1", "", 0)
		if len(told) != 2 || !slices.Equal(told[0], []state.Key{"service/1", "service/2"}) || !slices.Equal(told[1], []state.Key{"service/1"}) {
			t.Errorf("told of %q", told)
		}
		stop()
		mustSwap(t, s.a, state.Change{Key: "service/1", Value: []byte("3")})
		soon()
		if len(told) != 2 {
			t.Errorf("told after it was stopped: %q", told)
		}
		if s.a.ID() == "" || s.a.ID() != s.b.ID() {
			t.Errorf("clusters %q and %q", s.a.ID(), s.b.ID())
		}
	})
}

// After a conflict the mirror has the present record, however late the watch is.
func TestConflictBringsTheRecord(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.cb.Set(func(f *clustertest.Faults) { f.Mute = true })
		v := mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")})[0]
		soon()
		want(t, s.b, "k", "", 0)
		conflict(t, s.b, state.ConflictError{Key: "k", Have: v}, state.Change{Key: "k", Value: []byte("2")})
		want(t, s.b, "k", "1", v)
		mustSwap(t, s.a, state.Change{Key: "k", Version: v})
		conflict(t, s.b, state.ConflictError{Key: "k", Want: v}, state.Change{Key: "k", Version: v, Value: []byte("2")})
		want(t, s.b, "k", "", 0)
	})
}

// A manager that writes notices within seconds that its watch is dead; one that does not, when
// everything is read again.
func TestDeadWatch(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.ca.Set(func(f *clustertest.Faults) { f.Mute = true })
		s.cb.Set(func(f *clustertest.Faults) { f.Mute = true })
		v := mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")})[0]
		mustSwap(t, s.b, state.Change{Key: "own", Value: []byte("1")})
		time.Sleep(11 * time.Second)
		want(t, s.b, "k", "1", v)
		if age := s.b.Age(); age > 2*time.Second {
			t.Errorf("it may be %s old", age)
		}
		if stats := s.b.Stats(); stats.Late != 1 {
			t.Errorf("%+v", stats)
		}
		v = mustSwap(t, s.a, state.Change{Key: "k", Version: v, Value: []byte("2")})[0]
		time.Sleep(30 * time.Second)
		want(t, s.b, "k", "1", v-2)
		time.Sleep(6 * time.Minute)
		want(t, s.b, "k", "2", v)
	})
}

func TestAge(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		begin := time.Now()
		time.Sleep(2 * time.Minute)
		if age := s.a.Age(); age > time.Since(begin) || age < time.Since(begin)-time.Second {
			t.Errorf("%s, want %s", age, time.Since(begin))
		}
		mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")})
		soon()
		if age := s.a.Age(); age != time.Second {
			t.Errorf("after a change of its own: %s", age)
		}
		s.ca.Set(func(f *clustertest.Faults) { f.Cut = true })
		time.Sleep(time.Hour)
		if log := s.log.String(); strings.Count(log, "cannot be read") != 1 {
			t.Errorf("logged %s", log)
		}
		if age := s.a.Age(); age != time.Hour+time.Second {
			t.Errorf("cut off: %s", age)
		}
		wantErr(t, "cut off", s.a.Err(), cluster.ErrUnavailable)
		want(t, s.a, "k", "1", 3) // from the mirror
		_, err := s.a.Swap(t.Context(), state.Change{Key: "k", Version: 3})
		wantErr(t, "cut off", err, cluster.ErrUnavailable)
		s.ca.Set(func(f *clustertest.Faults) { f.Cut = false })
		time.Sleep(10 * time.Second)
		if age, err := s.a.Age(), s.a.Err(); age > 10*time.Second || err != nil {
			t.Errorf("back: %s, %v", age, err)
		}
		want(t, s.a, "k", "1", 3)
	})
}

// An answer that was lost is unknown; reading from the engine tells.
func TestLostAnswers(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.ca.Set(func(f *clustertest.Faults) { f.Mute, f.LoseAnswers = true, 1 })
		_, err := s.a.Swap(t.Context(), state.Change{Key: "k", Value: []byte("1")})
		wantErr(t, "answer lost", err, cluster.ErrUnknown)
		want(t, s.a, "k", "", 0)
		if err := s.a.Fresh(t.Context(), "k", "other", "k"); err != nil {
			t.Fatal(err)
		}
		want(t, s.a, "k", "1", 3)
		s.ca.Set(func(f *clustertest.Faults) { f.LoseRequests = 1 })
		_, err = s.a.Swap(t.Context(), state.Change{Key: "k", Version: 3, Value: []byte("2")})
		wantErr(t, "request lost", err, cluster.ErrUnknown)
		if err := s.a.Fresh(t.Context()); err != nil { // everything
			t.Fatal(err)
		}
		want(t, s.a, "k", "1", 3)
		if stats := s.a.Stats(); stats.Swaps.Unknown != 2 {
			t.Errorf("%+v", stats)
		}
	})
}

// Who asks while everything is being read again gets what is read after that.
func TestFreshMeanwhile(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.ca.Set(func(f *clustertest.Faults) { f.Mute, f.Slow = true, 2*time.Second })
		var wait sync.WaitGroup
		for n := range 2 {
			wait.Go(func() {
				time.Sleep(time.Duration(n) * 1500 * time.Millisecond) // the engine has answered the first
				v := mustSwap(t, s.b, state.Change{Key: state.Key(fmt.Sprint(n)), Value: []byte("x")})[0]
				begin := time.Now()
				if err := s.a.Fresh(t.Context()); err != nil {
					t.Error(err)
				}
				want(t, s.a, state.Key(fmt.Sprint(n)), "x", v)
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
		wait.Wait()
	})
}

// Swaps at the same time share transactions, and a conflict is that of one of them.
func TestShared(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.ca.Set(func(f *clustertest.Faults) { f.Slow = 100 * time.Millisecond })
		v := mustSwap(t, s.b, state.Change{Key: "taken/7", Value: []byte("b")}, state.Change{Key: "taken/130", Value: []byte("b")})[0]
		var wait sync.WaitGroup
		for n := range 240 {
			wait.Go(func() {
				key := state.Key(fmt.Sprint("taken/", n))
				_, err := s.a.Swap(t.Context(), state.Change{Key: key, Value: []byte("a")}, state.Change{Key: "other" + key, Value: []byte("a")})
				if n == 7 || n == 130 {
					wantErr(t, "taken", err, state.ErrConflict)
					want(t, s.a, key, "b", v)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		// The first goes alone, 479 records more in transactions of 120, and two again.
		if stats := s.a.Stats(); stats.Sent > 8 || stats.Reads != 1 {
			t.Errorf("%+v", stats)
		}
		if list, err := s.a.List("other"); len(list) != 238 || err != nil {
			t.Errorf("%d records, %v", len(list), err)
		}
		if made := s.a.Stats().Swaps; made.Made != 238 || made.Conflicts != 2 {
			t.Errorf("%+v", made)
		}
	})
}

func TestLimitsOfTransactions(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		var many []state.Change
		for n := range cluster.MaxOps + 1 {
			many = append(many, state.Change{Key: state.Key(fmt.Sprint(n)), Value: []byte("x")})
		}
		if _, err := s.a.Swap(t.Context(), many...); err == nil || !strings.Contains(err.Error(), "121 changes") {
			t.Error(err)
		}
		big := make([]byte, 600<<10)
		if _, err := s.a.Swap(t.Context(), state.Change{Key: "a", Value: big}, state.Change{Key: "b", Value: big}); err == nil || !strings.Contains(err.Error(), "want at most 1048576") {
			t.Error(err)
		}
		// Apart they go, though they would share a transaction.
		var wait sync.WaitGroup
		for n := range 10 {
			wait.Go(func() {
				if _, err := s.a.Swap(t.Context(), state.Change{Key: state.Key(fmt.Sprint(n)), Value: big}); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	})
}

// An engine without space still deletes.
func TestNoSpace(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		v := mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")}, state.Change{Key: "l", Value: []byte("1")})
		s.f.Full(true)
		s.ca.Set(func(f *clustertest.Faults) { f.Slow = 10 * time.Millisecond })
		var wait sync.WaitGroup
		wait.Go(func() {
			_, err := s.a.Swap(t.Context(), state.Change{Key: "first", Value: []byte("2")})
			wantErr(t, "full", err, cluster.ErrNoSpace)
		})
		time.Sleep(time.Millisecond) // the next two share a transaction
		wait.Go(func() {
			_, err := s.a.Swap(t.Context(), state.Change{Key: "k", Version: v[0], Value: []byte("2")})
			wantErr(t, "full", err, cluster.ErrNoSpace)
		})
		time.Sleep(time.Millisecond)
		wait.Go(func() { mustSwap(t, s.a, state.Change{Key: "l", Version: v[1]}) })
		wait.Wait()
		want(t, s.a, "k", "1", v[0])
		want(t, s.a, "l", "", 0)
		s.f.Full(false)
		mustSwap(t, s.a, state.Change{Key: "k", Version: v[0], Value: []byte("2")})
	})
}

// A record on a lease goes with it, and a lost lease is nobody else's error.
func TestLease(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		lease, err := s.ca.Grant(t.Context(), 9*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.a.SwapLeased(t.Context(), lease, state.Change{Key: "member/a", Value: []byte("a")})
		if err != nil {
			t.Fatal(err)
		}
		soon()
		want(t, s.b, "member/a", "a", v[0])
		time.Sleep(10 * time.Second)
		want(t, s.b, "member/a", "", 0)
		want(t, s.a, "member/a", "", 0)
		s.ca.Set(func(f *clustertest.Faults) { f.Slow = 10 * time.Millisecond })
		var wait sync.WaitGroup
		for n := range 10 {
			wait.Go(func() {
				if n == 5 {
					_, err := s.a.SwapLeased(t.Context(), lease, state.Change{Key: "member/a", Value: []byte("a")})
					wantErr(t, "lost", err, cluster.ErrLeaseLost)
				} else if _, err := s.a.Swap(t.Context(), state.Change{Key: state.Key(fmt.Sprint(n)), Value: []byte("x")}); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	})
}

// A record that does not open is its own error, and no one else's.
func TestDamage(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		v := mustSwap(t, s.a, state.Change{Key: "service/1", Value: []byte("1")}, state.Change{Key: "service/2", Value: []byte("2")})
		soon()
		items := s.f.Items()
		i := slices.IndexFunc(items, func(i cluster.Item) bool { return !strings.HasSuffix(i.Key, "/layout") })
		broken := bytes.Clone(items[i].Value)
		broken[len(broken)-1] ^= 1
		s.f.Put(items[i].Key, broken)
		soon()
		c := open(t, s.f.Client(), nil) // which never saw it intact
		for _, store := range []*cluster.Store{s.a, c} {
			list, err := store.List("")
			if len(list) != 1 || err != nil {
				t.Fatalf("%v, %v", list, err)
			}
			other := state.Key("service/1")
			if list[0].Key == other {
				other = "service/2"
			}
			if _, version, err := store.Get(other); !errors.Is(err, state.ErrDamaged) || version != 0 {
				t.Errorf("the damaged one: %d, %v", version, err)
			}
			if stats := store.Stats(); stats.Damaged != 1 || stats.Records != 1 {
				t.Errorf("%+v", stats)
			}
			// Nobody replaces it who does not know that it is damaged.
			for _, version := range []uint64{0, v[0]} {
				_, err := store.Swap(t.Context(), state.Change{Key: other, Version: version, Value: []byte("3")})
				wantErr(t, "the damaged one", err, state.ErrDamaged)
			}
			if store == c {
				v := mustSwap(t, c, state.Change{Key: other, Version: 4, Value: []byte("3")})
				soon()
				want(t, s.a, other, "3", v[0])
			}
		}
	})
}

// An engine that lost everything does not say that there are no services.
func TestWiped(t *testing.T) {
	for what, wipe := range map[string]func(*scene){
		"wiped":   func(s *scene) { s.f.Wipe() },
		"deleted": func(s *scene) { s.f.DeleteAll("/") },
		"deleted unseen": func(s *scene) {
			s.ca.Set(func(f *clustertest.Faults) { f.Mute = true })
			s.cb.Set(func(f *clustertest.Faults) { f.Mute = true })
			s.f.DeleteAll("/")
		},
		"another cluster's": func(s *scene) {
			s.f.Wipe()
			c, err := cluster.Open(cluster.Config{Engine: s.f.Client(), Key: testKey, Name: "main"})
			if err != nil {
				panic(err)
			}
			soon()
			if _, err := c.Swap(context.Background(), state.Change{Key: "service/2", Value: []byte("c")}); err != nil {
				panic(err)
			}
			c.Close()
		},
	} {
		t.Run(what, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				v := mustSwap(t, s.a, state.Change{Key: "service/1", Value: []byte("1")}, state.Change{Key: "service/2", Value: []byte("2")})
				soon()
				told := 0
				s.a.Subscribe("", func([]state.Key) { told++ })
				wipe(s)
				if what != "deleted unseen" {
					soon()
				}
				for _, change := range []state.Change{{Key: "service/3", Value: []byte("3")}, {Key: "service/1", Version: v[0], Value: []byte("3")}} {
					_, err := s.a.Swap(t.Context(), change)
					wantErr(t, "storing", err, cluster.ErrWiped)
				}
				soon()
				wantErr(t, "state", s.a.Err(), cluster.ErrWiped)
				want(t, s.a, "service/1", "1", v[0])
				time.Sleep(time.Hour)
				want(t, s.a, "service/1", "1", v[0])
				want(t, s.b, "service/2", "2", v[1])
				wantErr(t, "state", s.b.Err(), cluster.ErrWiped)
				if told != 0 {
					t.Errorf("told of %d changes", told)
				}
				// One who starts again, and knows that there was a cluster, does not begin anew.
				c := openNow(t, s.f.Client(), func(c *cluster.Config) { c.ID = s.a.ID() })
				wantErr(t, "started again", c.Ready(t.Context()), cluster.ErrWiped)
				_, _, err := c.Get("service/1")
				wantErr(t, "started again", err, cluster.ErrWiped)

				s.ca.Set(func(f *clustertest.Faults) { f.Mute = false })
				s.cb.Set(func(f *clustertest.Faults) { f.Mute = false })
				entries, err := s.a.List("")
				if err != nil {
					t.Fatal(err)
				}
				for n := range 300 {
					entries = append(entries, state.Entry{Key: state.Key(fmt.Sprint("more/", n)), Value: make([]byte, 10<<10)})
				}
				if err := s.a.Restore(t.Context(), entries); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				for _, store := range []*cluster.Store{s.a, s.b, c} {
					value, version, err := store.Get("service/1")
					if string(value) != "1" || version == 0 || err != nil {
						t.Errorf("restored: %q, %d, %v", value, version, err)
					}
					if value, _, _ := store.Get("service/2"); what == "another cluster's" && string(value) != "c" {
						t.Errorf("what was there already became %q", value)
					}
					if list, err := store.List("more/"); len(list) != 300 || err != nil {
						t.Errorf("restored: %d records, %v", len(list), err)
					}
					wantErr(t, "state", store.Err(), nil)
					mustSwap(t, store, state.Change{Key: "service/1", Version: version, Value: []byte("1")})
					soon()
				}
				if err := s.a.Restore(t.Context(), nil); err == nil {
					t.Error("restored what was not wiped")
				}
			})
		})
	}
}

// An engine that went back to an older state is followed, and said so.
func TestWentBack(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		v := mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")}, state.Change{Key: "l", Value: []byte("1")})
		snapshot := s.f.Snapshot()
		newer := mustSwap(t, s.a, state.Change{Key: "k", Version: v[0], Value: []byte("2")}, state.Change{Key: "m", Value: []byte("1")})
		soon()
		var told []state.Key
		s.b.Subscribe("", func(changed []state.Key) { told = append(told, changed...) })
		s.f.GoBack(snapshot)
		// Whoever writes before the watch says so sees what is there now.
		conflict(t, s.a, state.ConflictError{Key: "k", Want: newer[0], Have: v[0]}, state.Change{Key: "k", Version: newer[0], Value: []byte("3")})
		want(t, s.a, "k", "1", v[0])
		want(t, s.a, "m", "", 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		want(t, s.b, "k", "1", v[0])
		want(t, s.b, "l", "1", v[1])
		time.Sleep(20 * time.Minute)
		if a, b := s.a.Stats().Back, s.b.Stats().Back; a != 1 || b != 1 {
			t.Errorf("went back %d and %d times", a, b)
		}
		if !slices.Equal(told, []state.Key{"k", "m"}) {
			t.Errorf("told of %q", told)
		}
	})
}

// A newer balancer replaced the layout record: older ones stop at once.
func TestNewerLayout(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		v := mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")})[0]
		s.ca.Set(func(f *clustertest.Faults) { f.Mute = true })
		cd := s.f.Client()
		d := open(t, cd, nil)
		cd.Set(func(f *clustertest.Faults) { f.Mute = true })
		for _, item := range s.f.Items() {
			if strings.HasSuffix(item.Key, "/layout") {
				s.f.Put(item.Key, append([]byte{2}, item.Value[1:]...))
			}
		}
		_, err := s.a.Swap(t.Context(), state.Change{Key: "k", Version: v, Value: []byte("2")})
		wantErr(t, "storing", err, state.ErrNewer)
		soon()
		want(t, s.b, "k", "1", v)
		wantErr(t, "state", s.b.Err(), state.ErrNewer)
		c := openNow(t, s.f.Client(), nil)
		wantErr(t, "opening", c.Ready(t.Context()), state.ErrNewer)
		time.Sleep(6 * time.Minute)
		wantErr(t, "with a dead watch", d.Err(), state.ErrNewer)
	})
}

func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := clustertest.New()
		f.Down(true)
		s := openNow(t, f.Client(), nil)
		time.Sleep(time.Minute)
		_, _, err := s.Get("k")
		wantErr(t, "reading", err, cluster.ErrUnread)
		_, err = s.List("")
		wantErr(t, "listing", err, cluster.ErrUnread)
		_, err = s.Swap(t.Context(), state.Change{Key: "k", Value: []byte("x")})
		wantErr(t, "storing", err, cluster.ErrUnread)
		wantErr(t, "storing", err, cluster.ErrUnavailable)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantErr(t, "waiting", s.Ready(ctx), context.DeadlineExceeded)
		f.Down(false)
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		denied := f.Client()
		denied.Set(func(f *clustertest.Faults) { f.Denied = true })
		wantErr(t, "denied", openNow(t, denied, nil).Ready(t.Context()), cluster.ErrDenied)
	})
}

func TestClosed(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.ca.Set(func(f *clustertest.Faults) { f.Cut = true })
		var wait sync.WaitGroup
		for n := range 3 {
			wait.Go(func() {
				if _, err := s.a.Swap(t.Context(), state.Change{Key: state.Key(fmt.Sprint(n)), Value: []byte("x")}); err == nil {
					t.Error("stored")
				}
			})
		}
		time.Sleep(time.Second)
		begin := time.Now()
		s.a.Close()
		wait.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("closing took %s", took)
		}
		_, _, err := s.a.Get("k")
		wantErr(t, "reading", err, state.ErrClosed)
		_, err = s.a.Swap(t.Context(), state.Change{Key: "k", Value: []byte("x")})
		wantErr(t, "storing", err, state.ErrClosed)
		wantErr(t, "reading", s.a.Fresh(t.Context(), "k"), state.ErrClosed)
		wantErr(t, "reading", s.a.Fresh(t.Context()), state.ErrClosed)
		wantErr(t, "waiting", openNow(t, s.ca, nil).Ready(canceled(t)), context.Canceled)
	})
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A new key is added, seals, and the old one is taken out, while two managers work.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := clustertest.New()
		old := cluster.NewKey()
		both, err := old.Add()
		if err != nil {
			t.Fatal(err)
		}
		with := func(c *cluster.Config) { c.Key = old }
		a, b := open(t, f.Client(), with), open(t, f.Client(), with)
		lines := strings.SplitAfter(text(both), "\n")
		turned, next := parse(t, lines[1]+lines[0]), parse(t, lines[1])
		set := func(s *cluster.Store, key *cluster.Key) {
			t.Helper()
			if err := s.SetKey(key); err != nil {
				t.Fatal(err)
			}
			soon()
		}
		for n := range 300 {
			mustSwap(t, a, state.Change{Key: state.Key(fmt.Sprint(n)), Value: []byte("x")})
		}
		lease, err := a.SwapLeased(t.Context(), 0, state.Change{Key: "l", Value: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		set(a, both)
		set(a, turned)
		mustSwap(t, a, state.Change{Key: "l", Version: lease[0], Value: []byte("new")})
		soon()
		if n := b.Stats().Damaged; n != 1 { // it was not given the new key in time
			t.Errorf("%d are damaged", n)
		}
		set(b, both)
		if n := b.Stats().Damaged; n != 0 {
			t.Errorf("%d are damaged", n)
		}
		set(b, turned)
		if old := b.Stats().Old; old != 301 {
			t.Errorf("%d are sealed by the old key", old)
		}
		if n, err := b.Reseal(t.Context()); n != 300 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		soon()
		for _, s := range []*cluster.Store{a, b} {
			if st := s.Stats(); st.Old != 0 || st.Records != 301 || st.Damaged != 0 {
				t.Errorf("%+v", st)
			}
			set(s, next)
		}
		mustSwap(t, a, state.Change{Key: "m", Value: []byte("x")})
		c := open(t, f.Client(), func(c *cluster.Config) { c.Key = next })
		if list, err := c.List(""); len(list) != 302 || err != nil {
			t.Errorf("%d, %v", len(list), err)
		}
		wantErr(t, "an old key", openNow(t, f.Client(), with).Ready(t.Context()), cluster.ErrKey)
		if err := a.SetKey(cluster.NewKey()); err == nil {
			t.Error("another cluster's key was taken")
		}
	})
}

// A manager whose key or cluster has another name sees another, empty cluster. It says so.
func TestOtherClusters(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		mustSwap(t, s.a, state.Change{Key: "k", Value: []byte("1")})
		for _, with := range []func(*cluster.Config){
			func(c *cluster.Config) { c.Name = "other" }, func(c *cluster.Config) { c.Key = cluster.NewKey() },
		} {
			var log bytes.Buffer
			c := open(t, s.f.Client(), func(c *cluster.Config) { with(c); c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			if list, err := c.List(""); len(list) != 0 || err != nil || c.ID() == s.a.ID() {
				t.Errorf("%v, %v", list, err)
			}
			if !strings.Contains(log.String(), "there are other clusters in this store") {
				t.Errorf("logged %s", log.String())
			}
		}
		prefix, err := cluster.Prefix(testKey, "main")
		if err != nil || !strings.HasPrefix(s.f.Items()[0].Key, "/balancer/") || !slices.ContainsFunc(s.f.Items(), func(i cluster.Item) bool { return i.Key == prefix+"layout" }) {
			t.Errorf("prefix %q, %v", prefix, err)
		}
	})
}

// Nobody who has what the engine has can read a name.
func TestNothingReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := clustertest.New()
		f.KeepWritten()
		s := open(t, f.Client(), func(c *cluster.Config) { c.Name = "cluster-of-many" })
		var addresses []descriptor.Address
		names := []string{"cluster-of-many", "manager-in-basement", "shard-with-customers"}
		plain := new(bytes.Buffer)
		for n := range byte(50) {
			a := address(t, n)
			addresses = append(addresses, a)
			put, err := state.Put(state.ServiceKey(a), 0, state.Service{Owner: names[1], Points: []state.Published{{Instance: state.Address(a), AuthKey: state.Bytes32(a)}}})
			if err != nil {
				t.Fatal(err)
			}
			mustSwap(t, s, put, state.Change{Key: state.Key("member/" + names[1]), Version: version(t, s, state.Key("member/"+names[1])), Value: []byte(names[2] + string(a[:]))})
			fmt.Fprintf(plain, "%s %s %s%s", put.Key, put.Value, names, a[:])
		}
		if found := clustertest.Readable(bytes.Join(f.Written(), []byte("\n")), addresses, names); len(found) > 0 {
			t.Errorf("readable: %q", found)
		}
		if found := clustertest.Readable(plain.Bytes(), addresses, names); len(found) < 3*50+3 {
			t.Errorf("the search finds only %d: it shows nothing", len(found))
		}
		for _, item := range f.Items() {
			if n := len(item.Value); (n-29-16)%256 != 0 {
				t.Errorf("a value of %d bytes", n)
			}
		}
	})
}

func version(t *testing.T, s store, key state.Key) uint64 {
	t.Helper()
	_, version, err := s.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func address(t testing.TB, n byte) descriptor.Address {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key.Address()
}

// A secret is not in memory as it is, and is read and sealed again like any other record.
func TestSecret(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		const key = state.SecretPrefix + "customer/s1/x"
		v := mustSwap(t, s.a, state.Change{Key: key, Value: []byte("it")})
		soon()
		for _, store := range []*cluster.Store{s.a, s.b} {
			want(t, store, key, "it", v[0])
			if list, err := store.List("secret/"); err != nil || len(list) != 1 || string(list[0].Value) != "it" {
				t.Errorf("%+v, %v", list, err)
			}
			if list, err := store.List(""); err != nil || len(list) != 0 {
				t.Errorf("listed with everything else: %+v, %v", list, err)
			}
		}
		two, err := testKey.Add()
		if err == nil {
			two, err = two.Turn()
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, store := range []*cluster.Store{s.a, s.b} {
			if err := store.SetKey(two); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.b.Reseal(t.Context()); err != nil || n != 1 {
			t.Errorf("sealed again: %d, %v", n, err)
		}
		soon()
		one, err := two.Drop()
		if err == nil {
			err = s.a.SetKey(one)
		}
		if err != nil {
			t.Fatal(err)
		}
		soon()
		_, version, _ := s.b.Get(key)
		want(t, s.a, key, "it", version)
		mustSwap(t, s.a, state.Change{Key: key, Version: version, Value: []byte("other")})
		soon()
		if value, _, err := s.b.Get(key); string(value) != "other" || err != nil {
			t.Errorf("%q, %v", value, err)
		}
	})
}
