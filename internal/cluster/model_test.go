package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
)

// step is something that happens.
type step struct {
	What  string
	Who   int // a manager
	Key   int
	After time.Duration // since the step before
}

var (
	ordinary = []string{"count", "count", "count", "count both", "delete", "fresh", "list"}
	faults   = []string{"cut", "slow", "late", "mute", "lose request", "lose answer", "down", "full", "break", "compact", "healed", "healed", "damage"}
)

func steps(faulty []string) *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		what := rapid.SampledFrom(ordinary).Draw(t, "what")
		if rapid.IntRange(0, 2).Draw(t, "fault") == 0 {
			what = rapid.SampledFrom(faulty).Draw(t, "what")
		}
		return step{what, rapid.IntRange(0, 2).Draw(t, "who"), rapid.IntRange(0, 3).Draw(t, "key"),
			time.Duration(rapid.SampledFrom([]int{0, 0, 1, 50, 1000, 7000, 30_000, 400_000}).Draw(t, "ms")) * time.Millisecond}
	}), 1, 80)
}

// After any faults, all managers' mirrors are what the engine has, subscribers were told of
// all that changed, and of the changes that managers were told were made none is lost.
func TestAnyFaults(t *testing.T) {
	backoff.Random = func() float64 { return 0.5 }
	rapid.Check(t, func(rt *rapid.T) {
		list := steps(faults).Draw(rt, "steps")
		var errs []string
		synctest.Test(t, func(t *testing.T) { errs = (&world{}).run(t, list) })
		if len(errs) > 0 {
			rt.Fatal(errs)
		}
	})
}

// The same if the engine goes back to what it was before: changes are lost then, and the
// mirrors follow.
func TestAnyReturns(t *testing.T) {
	backoff.Random = func() float64 { return 0.5 }
	rapid.Check(t, func(rt *rapid.T) {
		list := steps([]string{"snapshot", "back", "back", "cut", "mute", "late", "break", "healed"}).Draw(rt, "steps")
		var errs []string
		synctest.Test(t, func(t *testing.T) { errs = (&world{forgets: true}).run(t, list) })
		if len(errs) > 0 {
			rt.Fatal(errs)
		}
	})
}

// world is three managers that count in four records.
type world struct {
	f        *clustertest.Fake
	snapshot clustertest.Snapshot
	forgets  bool // what was made may be lost
	clients  []*clustertest.Client
	stores   []*cluster.Store
	views    []map[state.Key]string // what subscribers were told

	mu          sync.Mutex
	made, maybe map[state.Key]int // counts since the record was created
	errs        []string
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, fmt.Sprintf(format, args...))
}

func (w *world) run(t *testing.T, list []step) []string {
	w.f = clustertest.New()
	w.made, w.maybe = make(map[state.Key]int), make(map[state.Key]int)
	for range 3 {
		client := w.f.Client()
		s := open(t, client, nil)
		view := make(map[state.Key]string)
		s.Subscribe("", func(changed []state.Key) {
			for _, key := range changed {
				value, version, err := s.Get(key)
				switch {
				case err != nil:
					view[key] = "damaged"
				case version == 0:
					delete(view, key)
				default:
					view[key] = fmt.Sprint(string(value), " ", version)
				}
			}
		})
		w.clients, w.stores, w.views = append(w.clients, client), append(w.stores, s), append(w.views, view)
	}
	w.snapshot = w.f.Snapshot()
	var wait sync.WaitGroup
	for _, step := range list {
		time.Sleep(step.After)
		w.step(t.Context(), &wait, step)
	}
	w.heal()
	wait.Wait()
	time.Sleep(6 * time.Minute) // everything is read again
	synctest.Wait()
	w.compare(t)
	return w.errs
}

func (w *world) heal() {
	w.f.Down(false)
	w.f.Full(false)
	for _, c := range w.clients {
		c.Set(func(f *clustertest.Faults) { *f = clustertest.Faults{} })
	}
}

func (w *world) step(ctx context.Context, wait *sync.WaitGroup, step step) {
	client, s := w.clients[step.Who], w.stores[step.Who]
	key := state.Key(fmt.Sprint("k", step.Key))
	set := func(change func(*clustertest.Faults)) { client.Set(change) }
	switch step.What {
	case "count":
		wait.Go(func() { w.count(ctx, s, key) })
	case "count both":
		wait.Go(func() { w.count(ctx, s, key, state.Key(fmt.Sprint("k", (step.Key+1)%4))) })
	case "delete":
		wait.Go(func() {
			if _, version, err := s.Get("gone"); err == nil {
				change := state.Change{Key: "gone", Version: version}
				if version == 0 {
					change.Value = []byte("x")
				}
				_, _ = s.Swap(ctx, change)
			}
		})
	case "fresh":
		wait.Go(func() { _ = s.Fresh(ctx, key, "gone") })
	case "list":
		wait.Go(func() { _ = s.Fresh(ctx) })
	case "cut":
		set(func(f *clustertest.Faults) { f.Cut = true })
	case "slow":
		set(func(f *clustertest.Faults) { f.Slow = time.Second })
	case "late":
		set(func(f *clustertest.Faults) { f.Late = 3 * time.Second })
	case "mute":
		set(func(f *clustertest.Faults) { f.Mute = true })
	case "lose request":
		set(func(f *clustertest.Faults) { f.LoseRequests++ })
	case "lose answer":
		set(func(f *clustertest.Faults) { f.LoseAnswers++ })
	case "down":
		w.f.Down(true)
	case "full":
		w.f.Full(true)
	case "break":
		w.f.BreakWatches()
	case "compact":
		w.f.Compact()
	case "damage":
		for _, item := range w.f.Items() {
			if len(item.Key)%2 == step.Key%2 && item.Key[len(item.Key)-6:] != "layout" {
				w.f.Put(item.Key[:len(item.Key)-1]+"-", item.Value) // under a name that it was not sealed for
				break
			}
		}
	case "snapshot":
		w.snapshot = w.f.Snapshot()
	case "back":
		w.f.GoBack(w.snapshot)
	case "healed":
		w.heal()
	default:
		panic(step.What)
	}
}

// count adds one to each of keys, and tries again if another did so meanwhile.
func (w *world) count(ctx context.Context, s *cluster.Store, keys ...state.Key) {
	for tries := 0; ; tries++ {
		var changes []state.Change
		for _, key := range keys {
			value, version, err := s.Get(key)
			if err != nil {
				w.fail("%s: %v", key, err)
				return
			}
			n := 0
			if version != 0 {
				if n, err = strconv.Atoi(string(value)); err != nil {
					w.fail("%v", err)
				}
			}
			changes = append(changes, state.Change{Key: key, Version: version, Value: strconv.AppendInt(nil, int64(n)+1, 10)})
		}
		_, err := s.Swap(ctx, changes...)
		switch {
		case errors.Is(err, state.ErrConflict) && tries < 50:
			continue
		case errors.Is(err, state.ErrConflict):
			w.fail("%v, again and again", err)
		case errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, cluster.ErrNoSpace):
		default:
			w.mu.Lock()
			for _, key := range keys {
				w.maybe[key]++
				if err == nil {
					w.made[key]++
				}
			}
			w.mu.Unlock()
			if err != nil && !errors.Is(err, cluster.ErrUnknown) {
				w.fail("%v", err)
			}
		}
		return
	}
}

// compare compares the managers with one that has just read everything.
func (w *world) compare(t *testing.T) {
	fresh := open(t, w.f.Client(), nil)
	want, err := fresh.List("")
	if err != nil {
		w.fail("%v", err)
	}
	view := make(map[state.Key]string)
	for _, e := range want {
		view[e.Key] = fmt.Sprint(string(e.Value), " ", e.Version)
		n, _ := strconv.Atoi(string(e.Value))
		if e.Key != "gone" && !w.forgets && (n < w.made[e.Key] || n > w.maybe[e.Key]) {
			w.fail("%s is %d, and %d to %d changes were made", e.Key, n, w.made[e.Key], w.maybe[e.Key])
		}
	}
	for i, s := range w.stores {
		if got, err := s.List(""); err != nil || !reflect.DeepEqual(got, want) {
			w.fail("manager %d: %v, %v, want %v", i, got, err, want)
		}
		if !reflect.DeepEqual(w.views[i], view) {
			w.fail("manager %d was told %v, want %v", i, w.views[i], view)
		}
		if got, want := s.Stats().Damaged, fresh.Stats().Damaged; got != want {
			w.fail("manager %d: %d damaged, want %d", i, got, want)
		}
		if err := s.Err(); err != nil {
			w.fail("manager %d: %v", i, err)
		}
		if age := s.Age(); age > 6*time.Minute {
			w.fail("manager %d: %s old", i, age)
		}
	}
}
