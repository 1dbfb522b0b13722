package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
)

// WordStore keeps the operator's words over restarts, as *state.DB does, or for all managers
// that share it, as state.Words of a *cluster.Copied does.
type WordStore interface {
	Words() ([]state.Listed[state.Word], error)
	Word(descriptor.Address) (state.Word, uint64, error)
	SwapWord(ctx context.Context, a descriptor.Address, version uint64, w state.Word) (uint64, error)
	Swap(ctx context.Context, changes ...state.Change) (versions []uint64, err error)
}

// Admin is the administrative state by the operator's word.
func (b *Backend) Admin() health.Admin { return cmp.Or(b.Word.Admin, health.Ready) }

// Admin is the administrative state of the nth instance that is in force: of the
// operator's word and its agent's, the one with precedence.
func (v View) Admin(n int) health.Admin { return worse(v.Backends[n].Admin(), v.Checked(n).Admin) }

// Weigh returns the weight of the nth instance in force for a configured weight.
func (v View) Weigh(n int, configured float64) float64 {
	return v.Backends[n].Word.Weight.Of(configured) * v.Checked(n).Weight
}

// Load returns the load of the nth instance: as somebody told it, else as its agent
// did; zero if neither counts at now.
func (v View) Load(n int, now time.Time) health.Load {
	for _, l := range []health.Load{v.Backends[n].Load, v.Checked(n).Load} {
		if l.At(now) != nil {
			return l
		}
	}
	return health.Load{}
}

// TakenOut says why the nth instance gets no new visitors although it could have some;
// empty if it may have them.
func (v View) TakenOut(n int) string {
	b, h := v.Backends[n], v.Checked(n)
	switch {
	case b.Admin() != health.Ready:
		return "the operator set it to " + string(b.Admin())
	case b.Word.Weight.Zero():
		return "the operator set its weight to " + b.Word.Weight.String()
	case h.Admin != health.Ready:
		return "its agent set it to " + string(h.Admin)
	case h.Weight == 0:
		return "its agent set its weight to 0"
	}
	return ""
}

// words are the operator's words about instances, whether or not somebody uses them. One
// changes at a time.
type words struct {
	store WordStore
	one   chan struct{} // holds a token while no change is made

	mu  sync.Mutex // protects the fields below
	all map[descriptor.Address]storedWord
	err error // of reading them
}

type storedWord struct {
	word    state.Word
	version uint64
}

func newWords(store WordStore) *words {
	w := &words{store: store, one: make(chan struct{}, 1), all: map[descriptor.Address]storedWord{}}
	w.one <- struct{}{}
	var list []state.Listed[state.Word]
	list, w.err = store.Words()
	for _, l := range list {
		w.all[l.Address] = storedWord{l.Record, l.Version}
	}
	return w
}

// of returns the word in force.
func (w *words) of(a descriptor.Address) state.Word {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[a].word
}

// trouble returns why the stored words could not be read; nil if they were.
func (w *words) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// wordTimeout is how long a change waits for a store that hangs: less than those who
// ask over the socket wait for their answer.
const wordTimeout = 5 * time.Second

// errSilent says that the store hangs.
var errSilent = errors.New("the store does not answer")

// change has one word changed in the store, and then in memory. After an error none is
// changed in memory. In the store it may be, if the error is a timeout, until the next
// change.
func (w *words) change(ctx context.Context, a descriptor.Address, change func(state.Word) state.Word) (was, is state.Word, err error) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), wordTimeout, errSilent) // whoever asked may go away: it is made whole
	defer cancel()
	select {
	case <-w.one:
		defer func() { w.one <- struct{}{} }()
	case <-ctx.Done():
		return was, is, context.Cause(ctx)
	}
	w.mu.Lock()
	seen := w.all[a]
	w.mu.Unlock()
	before := seen
	version, err := before.version, error(nil)
	for range 4 { // others may change it, too
		is = change(before.word)
		if is == before.word {
			break
		}
		version, err = w.put(ctx, a, before.version, is)
		if !errors.Is(err, state.ErrConflict) {
			break
		}
		// An earlier change was stored after all, or the record could not be read before.
		if before.word, before.version, err = w.store.Word(a); err != nil {
			break
		}
		version = before.version
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	was = w.all[a].word
	if err != nil {
		return was, was, err
	}
	if w.all[a] == seen { // else take was here, and comes again if that was too early
		w.all[a] = storedWord{is, version}
	}
	return was, is, nil
}

// put stores a word; one that says nothing has no record.
func (w *words) put(ctx context.Context, a descriptor.Address, version uint64, word state.Word) (uint64, error) {
	if word != (state.Word{}) {
		return w.store.SwapWord(ctx, a, version, word)
	}
	if version == 0 {
		return 0, nil
	}
	_, err := w.store.Swap(ctx, state.Change{Key: state.OperatorKey(a), Version: version})
	return 0, err
}

// Word returns the operator's word about an instance.
func (s *Set) Word(a descriptor.Address) state.Word { return s.words.of(a) }

// SetWord changes the operator's word about an instance and returns the new one. It is
// stored first; if that fails, nothing changes.
func (s *Set) SetWord(ctx context.Context, a descriptor.Address, change func(*state.Word)) (state.Word, error) {
	was, is, err := s.words.change(ctx, a, func(w state.Word) state.Word {
		next := w
		if change(&next); next == w {
			return w
		}
		next.Since = s.cfg.Now().UTC().Truncate(time.Second)
		if !next.Says() {
			next.Since = time.Time{}
		}
		return next
	})
	if err != nil {
		return was, fmt.Errorf("storing what the operator said about %s: %w", a.Short(), err)
	}
	if was == is {
		return is, nil
	}
	s.said(a, was, is)
	return is, nil
}

// said has a changed word be in force.
func (s *Set) said(a descriptor.Address, was, is state.Word) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watches[a]
	if w == nil {
		return
	}
	w.update(func(b *Backend) { b.Word = s.words.of(a) })
	s.pause(w)
	if !is.Forgiven.Equal(was.Forgiven) {
		forgive(w)
	}
	e := w.event(event.Event{At: s.cfg.Now(), Kind: event.Operator, Text: "the operator's word"})
	e.Attrs = append(e.Attrs, slog.Any("admin", w.now.Admin()), slog.Any("was", (&Backend{Word: was}).Admin()), slog.Any("weight", is.Weight))
	s.cfg.Record(e)
	s.urgent(w)
}

// TakeWords has the words of changed records be in force, which other managers may have heard.
// It is called by one goroutine at a time. Words that cannot be read stay as they are.
func (s *Set) TakeWords(changed []state.Key) {
	for _, key := range changed {
		a, err := state.OperatorOf(key)
		if err == nil {
			var was, is state.Word
			if was, is, err = s.words.take(a); err == nil && was != is {
				s.said(a, was, is)
			}
		}
		if err != nil {
			s.cfg.Record(event.Event{At: s.cfg.Now(), Kind: event.Operator, Level: slog.LevelWarn, Text: "the operator's word cannot be read, and stays as it was", Attrs: []slog.Attr{slog.Any("error", err)}})
		}
	}
}

// take takes a word from the store. A change of our own that is being made at the same time
// may be undone by that until the store tells of it.
func (w *words) take(a descriptor.Address) (was, is state.Word, err error) {
	is, version, err := w.store.Word(a)
	w.mu.Lock()
	defer w.mu.Unlock()
	was = w.all[a].word
	if err == nil {
		w.all[a] = storedWord{is, version}
	}
	return was, is, err
}
