package cluster_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
)

// serviceItems lists the engine's records of services, and memberItems those of members.
func (w *managed) serviceItems() (list []cluster.Item) {
	for _, i := range w.engine.Items() {
		if i.Lease == 0 && !strings.HasSuffix(i.Key, "/layout") {
			list = append(list, i)
		}
	}
	return list
}

func (w *managed) memberItems() (list []cluster.Item) {
	for _, i := range w.engine.Items() {
		if i.Lease != 0 {
			list = append(list, i)
		}
	}
	return list
}

// taken returns how often managers became the owner of a service.
func (w *managed) taken() (n uint64) {
	for _, m := range w.managers {
		n += m.cluster.Status().Counts.Taken
	}
	return n
}

// Records that are deleted while their services are published are written again, and the
// services go on; the same for records that are put back to what they were.
func TestRecordsAreLostOrPutBack(t *testing.T) {
	for _, what := range []string{"deleted", "put back", "all put back"} {
		t.Run(what, func(t *testing.T) {
			inWorld(t, 20, func(t *testing.T, w *managed) {
				w.add("m1", "m2")
				w.until("at the start", 15*time.Second)
				time.Sleep(time.Minute)
				old, snapshot := w.serviceItems(), w.engine.Snapshot()
				w.named("m2").kill()
				time.Sleep(time.Minute)
				w.named("m2").start()
				time.Sleep(30 * time.Minute)
				before, taken := first(w.owners()), w.taken()
				switch what {
				case "deleted":
					for _, i := range w.serviceItems() {
						w.engine.Put(i.Key, nil)
					}
				case "put back":
					for _, i := range old {
						w.engine.Put(i.Key, i.Value)
					}
				default:
					w.engine.GoBack(snapshot)
				}
				time.Sleep(20 * time.Minute)
				w.until(what, time.Second)
				time.Sleep(3 * time.Hour)
				if n := w.taken() - taken; n != 0 {
					t.Errorf("%d services were taken", n)
				}
				if after := first(w.owners()); !maps.Equal(before, after) {
					t.Errorf("services moved: %v, before %v", after, before)
				}
				if gap := w.gap(time.Time{}); gap > refreshEvery+2*time.Minute {
					t.Errorf("a service was without an upload for %s", gap)
				}
			})
		})
	}
}

// A manager that was stopped between taking a service and publishing it, for so long that
// another has it now, does not take it from that one.
func TestStoppedBeforeTheStart(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1")
		m1 := w.named("m1")
		m1.set(func() { m1.stuck, m1.hasty = make(chan struct{}), true })
		time.Sleep(5 * time.Second)
		m1.client.Set(cut(true))
		w.add("m2")
		w.until("taken over", 30*time.Second)
		m2 := w.named("m2")
		m1.client.Set(cut(false))
		time.Sleep(5 * time.Second)
		before := m2.cluster.Status().Counts
		m1.set(func() { close(m1.stuck); m1.stuck = nil })
		time.Sleep(time.Minute)
		if after := m2.cluster.Status().Counts; after != before || after.Taken != 20 {
			t.Errorf("the other: %+v, before %+v", after, before)
		}
		w.until("it hangs no more", time.Second)
	})
}

// Of two managers with one name that both take themselves for the one that was there before,
// as a machine and its copy do, one publishes.
func TestCopyOfAMachine(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1")
		w.until("at the start", 15*time.Second)
		time.Sleep(time.Minute)
		m1 := w.named("m1")
		m1.local.mu.Lock()
		local := &memory{records: maps.Clone(m1.local.records), last: m1.local.last}
		m1.local.mu.Unlock()
		copied := &manager{w: w, name: "m1", client: w.engine.Client(), local: local, id: m1.id}
		w.managers = append(w.managers, copied)
		copied.start()
		time.Sleep(time.Minute)
		w.until("with a copy", 5*time.Second)
		taken := w.taken()
		time.Sleep(time.Hour)
		w.until("with a copy, later", time.Second)
		if n := w.taken() - taken; n != 0 {
			t.Errorf("%d services were taken", n)
		}
		copied.kill()
		w.until("the copy is gone", 15*time.Second)
	})
}

// Keys of members that somebody spoiled are written again, and nothing moves for long.
func TestSpoiledMembers(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1", "m2", "m3")
		w.until("at the start", 15*time.Second)
		time.Sleep(10 * time.Minute)
		taken := w.taken()
		for range 3 {
			for _, i := range w.memberItems() {
				w.engine.Put(i.Key, []byte("spoiled"))
			}
			time.Sleep(20 * time.Minute)
			w.until("spoiled", 15*time.Second)
		}
		if n := w.taken() - taken; n > 60 {
			t.Errorf("%d services were taken", n)
		}
		for _, m := range w.managers {
			if got := m.cluster.Status(); !got.Joined || len(got.Members) != 3 || len(got.Troubles) != 0 {
				t.Errorf("%s: %+v", m.name, got)
			}
		}
	})
}

// What a dead manager once wrote of itself is no sign of life, however often somebody puts it
// back.
func TestDeadMemberIsPutBack(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1")
		time.Sleep(5 * time.Second)
		first := w.memberItems()[0].Key
		w.add("m2")
		w.until("at the start", 15*time.Second)
		w.named("m2").kill()
		w.named("m2").start()
		time.Sleep(10 * time.Minute)
		var seen []cluster.Item // of the second's
		for range 5 {
			seen = append(seen, slices.DeleteFunc(w.memberItems(), func(i cluster.Item) bool { return i.Key == first })...)
			time.Sleep(time.Minute)
		}
		w.named("m2").kill()
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			w.until("the dead one is followed", 4*time.Minute)
		}()
		for n := range 40 {
			if n%10 == 9 {
				w.engine.Put(seen[0].Key, nil)
			}
			w.engine.Put(seen[0].Key, seen[n%len(seen)].Value)
			time.Sleep(7 * time.Second)
		}
		<-followed
	})
}

// A manager that is started again at once, without some of its services, leaves them to
// others.
func TestStartedAgainWithout(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		m1, all := w.named("m1"), w.services
		m1.kill()
		for n := range all {
			all[n].Group = "service:" + all[n].Address.String()
		}
		w.services = all[:0]
		m1.start()
		w.services = all
		w.named("m2").want()
		w.until("without", 2*time.Minute)
		if of := first(w.owners()); of["m2"] != 20 {
			t.Errorf("%v", of)
		}
	})
}

// Services that another manager should have, and does not know of, are not given to it again
// and again.
func TestGivenToWhoDoesNotKnow(t *testing.T) {
	inWorld(t, 80, func(t *testing.T, w *managed) {
		all := w.services
		w.add("m1")
		w.until("at the start", 15*time.Second)
		w.services = all[:40] // of the same shards
		w.add("m2")
		w.services = all
		time.Sleep(time.Hour)
		before := w.named("m1").cluster.Status().Counts
		time.Sleep(3 * time.Hour)
		w.until("in the end", 15*time.Second)
		if n := w.named("m1").cluster.Status().Counts.Given - before.Given; n > 4*40 {
			t.Errorf("%d services were given", n)
		}
	})
}

// A service that the configuration loses while it is being taken is not published.
func TestNotWantedMeanwhile(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *managed) {
		w.add("m1")
		m1, all := w.named("m1"), w.services
		m1.client.Set(func(f *clustertest.Faults) { f.Slow = time.Second })
		for range 2000 {
			if len(w.serviceItems()) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.services = all[:2] // before the answer is there
		m1.want()
		m1.client.Set(func(f *clustertest.Faults) { f.Slow = 0 })
		time.Sleep(time.Minute)
		w.until("without", time.Second)
		if got, of := m1.cluster.Status(), first(w.owners()); got.Services != 2 || got.Owned != 2 || of["m1"] != 2 {
			t.Errorf("%+v, published: %v", got, of)
		}
		w.services = all
		m1.want()
		w.until("with it again", 5*time.Second)
	})
}

// A store that takes no changes does not have the same said every second.
func TestNothingIsSaidAgainAndAgain(t *testing.T) {
	inWorld(t, 20, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		w.engine.Full(true)
		w.named("m2").kill()
		m1 := w.named("m1")
		m1.mu.Lock()
		m1.events = nil
		m1.mu.Unlock()
		time.Sleep(20 * time.Minute)
		m1.client.Set(cut(true))
		time.Sleep(20 * time.Minute)
		m1.mu.Lock()
		defer m1.mu.Unlock()
		if len(m1.events) > 20 {
			t.Errorf("%d events: %q", len(m1.events), m1.events[:20])
		}
	})
}

// The key under a name is that name's manager's.
func TestMemberOfAnotherName(t *testing.T) {
	inWorld(t, 10, func(t *testing.T, w *managed) {
		w.add("m1", "m2")
		w.until("at the start", 15*time.Second)
		s := w.named("m1").store
		value, _, err := s.Get("member/m2")
		if err != nil {
			t.Fatal(err)
		}
		w.named("m2").kill()
		for n := range 20 {
			_, version, _ := s.Get("member/m9")
			change := state.Change{Key: "member/m9", Version: version, Value: append(value, strings.Repeat(" ", n)...)}
			if _, err := s.Swap(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		w.until("the other is gone", 15*time.Second)
		if got := w.named("m1").cluster.Status(); len(got.Troubles) != 1 {
			t.Errorf("%q", got.Troubles)
		}
		_, version, _ := s.Get("member/m9")
		if _, err := s.Swap(t.Context(), state.Change{Key: "member/m9", Version: version}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.named("m1").cluster.Status(); len(got.Troubles) != 0 {
			t.Errorf("%q", got.Troubles)
		}
	})
}

// hider hides the layout record of its engine.
type hider struct {
	*clustertest.Client
	reads int
}

func (h *hider) Range(ctx context.Context, prefix string, since int64) ([]cluster.Item, int, int64, error) {
	h.reads++
	_, _, revision, err := h.Client.Range(ctx, prefix, since)
	return nil, 0, revision, err
}

// An engine that takes the layout record and never shows it is not asked without a pause.
func TestLayoutIsHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hider{Client: clustertest.New().Client()}
		s, err := cluster.Open(cluster.Config{Engine: h, Key: cluster.NewKey(), Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Minute)
			s.Close()
		}()
		if err := s.Ready(t.Context()); err == nil {
			t.Error("it is ready")
		}
		synctest.Wait()
		if h.reads > 300 {
			t.Errorf("%d reads", h.reads)
		}
	})
}

// late is an engine that is slow to answer a reading of everything.
type late struct {
	*clustertest.Client
	slow atomic.Bool
	then func()
}

func (l *late) Range(ctx context.Context, prefix string, since int64) ([]cluster.Item, int, int64, error) {
	items, count, revision, err := l.Client.Range(ctx, prefix, since)
	if l.slow.CompareAndSwap(true, false) {
		l.then()
	}
	return items, count, revision, err
}

// Who wants everything to be read again while that is being done gets it done once more.
func TestInterruptedWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := clustertest.New()
		l, key := &late{Client: f.Client()}, cluster.NewKey()
		s, err := cluster.Open(cluster.Config{Engine: l, Key: key, Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		reads := s.Stats().Reads
		interrupt := func() {
			if err := s.SetKey(key); err != nil {
				t.Error(err)
			}
		}
		l.then = interrupt
		l.slow.Store(true)
		interrupt()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.Stats().Reads - reads; n != 2 {
			t.Errorf("it was read %d times more, want 2", n)
		}
	})
}
