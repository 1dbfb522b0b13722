package backend

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// wordStore is a store that can be made to fail, or to hang until the caller gives up.
type wordStore struct {
	*state.DB
	broken error
	hangs  bool
}

func (w *wordStore) SwapWord(ctx context.Context, a descriptor.Address, version uint64, word state.Word) (uint64, error) {
	if w.hangs { // and the disk does it later
		<-ctx.Done()
		_, _ = w.DB.SwapWord(context.WithoutCancel(ctx), a, version, word)
		return 0, ctx.Err()
	}
	if w.broken != nil {
		return 0, w.broken
	}
	return w.DB.SwapWord(ctx, a, version, word)
}

func (w *wordStore) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	if w.broken != nil {
		return nil, w.broken
	}
	return w.DB.Swap(ctx, changes...)
}

// noNetwork is a source that never has a consensus.
type noNetwork struct{}

func (noNetwork) Consensus() (*hsdir.Consensus, error) { return nil, errors.New("none") }

func (noNetwork) Subscribe() (<-chan struct{}, func()) { return nil, func() {} }

// worded is a Set with one subscriber of one instance.
func worded(t *testing.T, store Store, words WordStore) (s *Set, sub *Subscription, woken *int, events *[]event.Event) {
	woken, events = new(int), new([]event.Event)
	s = New(Config{Consensus: noNetwork{}, Store: store, Words: words, Record: func(e event.Event) { *events = append(*events, e) }})
	sub = s.Subscribe(descriptor.Address{9}, []Instance{{Name: "web1", Address: descriptor.Address{1}}}, time.Minute, func() { *woken++ })
	return s, sub, woken, events
}

func admin(a health.Admin) func(*state.Word) { return func(w *state.Word) { w.Admin = a } }

// A word is stored, in force, told and seen; and a new Set has it.
func TestWord(t *testing.T) {
	store := &wordStore{DB: statetest.Open(t, "")}
	s, sub, woken, events := worded(t, store, nil)
	word, err := s.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain))
	if err != nil || word.Admin != health.Drain || word.Since.IsZero() {
		t.Fatalf("%+v, %v", word, err)
	}
	b := sub.View().Backends[0]
	if b.Admin() != health.Drain || sub.View().TakenOut(0) == "" || b.Version == 0 || *woken != 1 {
		t.Errorf("in force: %s (%q), version %d, woken %d times", b.Admin(), sub.View().TakenOut(0), b.Version, *woken)
	}
	if len(*events) != 1 || (*events)[0].Kind != event.Operator || (*events)[0].Service != (descriptor.Address{9}) {
		t.Errorf("events: %+v", *events)
	}
	if again, err := s.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); err != nil || again != word || *woken != 1 || len(*events) != 1 {
		t.Errorf("the same again: %+v, %v, woken %d times, %d events", again, err, *woken, len(*events))
	}
	s, sub, _, _ = worded(t, store, nil)
	if got := sub.View().Backends[0].Word; got != word {
		t.Errorf("after a restart: %+v, want %+v", got, word)
	}
	if word, err = s.SetWord(t.Context(), descriptor.Address{1}, admin("")); err != nil || word != (state.Word{}) {
		t.Errorf("ready: %+v, %v", word, err)
	}
	if list, err := store.Words(); err != nil || len(list) != 0 {
		t.Errorf("nothing said, and stored is %+v, %v", list, err)
	}
	// Not used by any service, and yet remembered.
	if _, err := s.SetWord(t.Context(), descriptor.Address{2}, admin(health.Maint)); err != nil {
		t.Error(err)
	}
	sub.Update([]Instance{{Name: "web2", Address: descriptor.Address{2}}}, time.Minute)
	if got := sub.View().Backends[0].Admin(); got != health.Maint {
		t.Errorf("used afterwards: %s", got)
	}
}

// A store that fails is an error, and changes nothing.
func TestWordNotStored(t *testing.T) {
	full := errors.New("no space left")
	store := &wordStore{DB: statetest.Open(t, ""), broken: full}
	s, sub, woken, events := worded(t, store, nil)
	if word, err := s.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); !errors.Is(err, full) || word != (state.Word{}) {
		t.Errorf("%+v, %v", word, err)
	}
	if got := sub.View().Backends[0].Word; got != (state.Word{}) || *woken != 0 || len(*events) != 0 {
		t.Errorf("in force: %+v, woken %d times, %d events", got, *woken, len(*events))
	}
	store.broken = nil
	if _, err := s.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); err != nil {
		t.Fatal(err)
	}
	store.broken = full
	if word, err := s.SetWord(t.Context(), descriptor.Address{1}, admin("")); !errors.Is(err, full) || word.Admin != health.Drain {
		t.Errorf("ready: %+v, %v", word, err)
	}
	if got := sub.View().Backends[0].Admin(); got != health.Drain {
		t.Errorf("ready was not stored, and in force is %s", got)
	}
}

// A store that hangs is an error in bounded time; if it did it after all, the next
// change goes on from that.
func TestWordStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &wordStore{DB: statetest.Open(t, ""), hangs: true}
		s, sub, _, _ := worded(t, store, nil)
		if _, err := s.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if got := sub.View().Backends[0].Admin(); got != health.Ready {
			t.Errorf("in force: %s", got)
		}
		store.hangs = false
		half, _ := health.ParseWeight("50%")
		word, err := s.SetWord(t.Context(), descriptor.Address{1}, func(w *state.Word) { w.Weight = half })
		if err != nil || word.Admin != health.Drain || word.Weight != half {
			t.Errorf("%+v, %v", word, err)
		}
		list, err := store.Words()
		if err != nil || !slices.ContainsFunc(list, func(l state.Listed[state.Word]) bool { return l.Record == word }) {
			t.Errorf("stored %+v, %v", list, err)
		}
	})
}

// What one manager hears is in force at the other, whatever that heard before.
func TestWordsOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := clustertest.New()
		key := cluster.NewKey()
		type manager struct {
			*Set
			sub    *Subscription
			woken  *int
			events *[]event.Event
			client *clustertest.Client
		}
		manage := func(before ...health.Admin) manager {
			db := statetest.Open(t, "")
			for _, a := range before {
				if _, err := db.SwapWord(t.Context(), descriptor.Address{1}, 0, state.Word{Admin: a}); err != nil {
					t.Fatal(err)
				}
			}
			m := manager{client: engine.Client()}
			store, err := cluster.Open(cluster.Config{Engine: m.client, Key: key, Name: "main"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(store.Close)
			shared := cluster.NewCopied(store, db, slog.New(slog.DiscardHandler))
			m.Set, m.sub, m.woken, m.events = worded(t, &wordStore{DB: db}, state.Words{Records: shared})
			shared.Subscribe(state.OperatorPrefix, m.TakeWords)
			go shared.Run(t.Context())
			time.Sleep(time.Minute)
			return m
		}
		want := func(when string, want health.Admin, all ...manager) {
			t.Helper()
			time.Sleep(time.Second)
			for n, m := range all {
				if got := m.sub.View().Backends[0].Admin(); got != want {
					t.Errorf("%s: manager %d has %s, want %s", when, n, got, want)
				}
			}
		}
		a, b := manage(), manage(health.Maint)
		want("b had it before", health.Maint, a, b)
		if *a.woken != 1 || len(*a.events) != 1 || len(*b.events) != 0 {
			t.Errorf("woken %d times, %d and %d events", *a.woken, len(*a.events), len(*b.events))
		}
		// Words at the same time: each is what it says, and one is the last.
		half, _ := health.ParseWeight("50%")
		var wait sync.WaitGroup
		for _, m := range []manager{a, b} {
			wait.Go(func() {
				if _, err := m.SetWord(t.Context(), descriptor.Address{1}, func(w *state.Word) { w.Weight = half }); err != nil {
					t.Error(err)
				}
			})
			wait.Go(func() {
				if _, err := m.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		want("both", health.Drain, a, b)
		if x, y := a.Word(descriptor.Address{1}), b.Word(descriptor.Address{1}); x != y || x.Weight != half {
			t.Errorf("a has %+v, b %+v", x, y)
		}
		// An answer that is lost: it may be done, and what is done shows everywhere.
		a.client.Set(func(f *clustertest.Faults) { f.LoseAnswers = 1 })
		if _, err := a.SetWord(t.Context(), descriptor.Address{1}, admin("")); err == nil {
			t.Error("an answer was lost, and there is no error")
		}
		want("an answer was lost", health.Ready, a, b)
		// Without the engine nothing changes; words of before stay in force.
		a.client.Set(func(f *clustertest.Faults) { f.Cut = true })
		if _, err := a.SetWord(t.Context(), descriptor.Address{1}, admin(health.Drain)); err == nil {
			t.Error("stored without the engine")
		}
		if _, err := b.SetWord(t.Context(), descriptor.Address{1}, admin(health.Maint)); err != nil {
			t.Error(err)
		}
		want("cut off", health.Ready, a)
		a.client.Set(func(f *clustertest.Faults) { f.Cut = false })
		time.Sleep(time.Minute)
		want("again", health.Maint, a, b)
	})
}
