package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/internal/state"
	"onionbalancer/internal/writequeue"
)

var (
	// ErrWiped says that the layout record, which a cluster's first manager writes, is not
	// there any more, or is another cluster's: the engine lost everything, or somebody
	// deleted it. It does not mean that there are no services. Restore mends it.
	ErrWiped = errors.New("the store of the cluster was wiped")
	// ErrKey says that the layout record was sealed by another cluster key.
	ErrKey = errors.New("the cluster key is another one")
	// ErrUnread says that nothing was read from the engine yet.
	ErrUnread = errors.New("the store of the cluster was not read yet")

	errReading = errors.New("it is being read")
)

// Config says how to open a Store.
type Config struct {
	Engine Engine
	Key    *Key
	Name   string           // the cluster's
	ID     string           // that Store.ID gave before; empty: this manager was never in the cluster
	Log    *slog.Logger     // default: discards
	Now    func() time.Time // default: time.Now
}

// Store is the records that the managers of a cluster share, with the types and the meaning
// of a *state.DB. What it says is from a mirror in memory, which follows the engine; what it
// changes, it changes in the engine first. It is safe for concurrent use.
//
// Other than with a *state.DB, others change records too: the mirror may be as old as Age
// says, and List may have one record in a newer version than another. Safety rests on the
// versions in Swap alone.
type Store struct {
	cfg    Config
	log    *slog.Logger
	sealer atomic.Pointer[sealer]
	queue  writequeue.Queue[*request]

	ctx    context.Context // ends with the store
	cancel context.CancelFunc
	loops  sync.WaitGroup
	wakes  chan struct{} // there are changes to tell
	ready  chan struct{} // closed when the mirror was read

	mu       sync.RWMutex // protects the fields below
	mirror   *mirror
	id       string       // of the cluster
	layout   int64        // version of the layout record; 0: the mirror was never read
	layoutBy [idSize]byte // which key sealed it
	refusal  error        // why nothing may be changed: ErrWiped, ErrKey, or a newer layout
	trouble  error        // why the engine cannot be followed now
	seen     int64        // the highest revision that the engine told
	whole    int64        // revision at which the mirror had all that the engine had
	proved   time.Time
	pending  []proof // own changes that the watch has not shown yet, oldest first
	late     *time.Timer
	closed   bool
	stats    Stats

	interrupted context.CancelFunc // ends the watch, or the wait before the next one
	waiting     []chan error       // for the mirror to be read again
	unsure      bool               // it has to be read again

	changed     map[state.Key]bool
	subscribers map[*subscriber]bool
}

// proof is a change of our own: once the watch has shown it, nothing before it is missing.
type proof struct {
	revision   int64
	sent, made time.Time
}

type subscriber struct {
	prefix state.Key
	f      func([]state.Key)
}

// Open returns a store that begins to follow the engine, and goes on until Close. It needs
// no engine that answers: Ready tells when the mirror was read.
func Open(cfg Config) (*Store, error) {
	s := &Store{
		cfg: cfg, log: cfg.Log, id: cfg.ID, wakes: make(chan struct{}, 1), ready: make(chan struct{}),
		changed: make(map[state.Key]bool), subscribers: make(map[*subscriber]bool), trouble: errReading,
		interrupted: func() {},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Now == nil {
		s.cfg.Now = time.Now
	}
	sealer, err := newSealer(cfg.Key, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("opening the store of cluster %s: %w", cfg.Name, err)
	}
	s.sealer.Store(sealer)
	s.mirror = newMirror(s.open)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.loops.Go(s.follow)
	s.loops.Go(s.tell)
	return s, nil
}

// Close stops following, and breaks off what is in flight. Nothing else can be done then.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	if s.late != nil {
		s.late.Stop()
	}
	s.mu.Unlock()
	s.cancel()
	s.queue.Close()
	s.loops.Wait()
}

func (s *Store) now() time.Time { return s.cfg.Now() }

func (s *Store) open(items []Item) []opened { return s.sealer.Load().open(items) }

// Ready waits until the mirror has been read. If only an operator can mend why it cannot be,
// it returns that at once: ErrWiped, ErrKey, ErrDenied, or state.ErrNewer.
func (s *Store) Ready(ctx context.Context) error {
	for {
		var err error
		select {
		case <-s.ready:
			return nil
		case <-s.ctx.Done():
			err = state.ErrClosed
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", context.Cause(ctx), s.Err())
		case <-time.After(retryAfter):
			if err = s.Err(); !final(err) && !errors.Is(err, ErrDenied) {
				continue
			}
		}
		return fmt.Errorf("reading the store of the cluster: %w", err)
	}
}

// ID identifies the cluster. It is to be kept, and given to the next Open: a store that was
// wiped is then told from one that is new. It is empty until the mirror was read.
func (s *Store) ID() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.id
}

// Prefix returns what all keys of a cluster begin with in the engine, for the operator
// who restricts a user to them.
func Prefix(key *Key, cluster string) (string, error) {
	s, err := newSealer(key, cluster)
	if err != nil {
		return "", err
	}
	return s.prefix, nil
}

// Get returns a copy of a record's value and its version, 0 if it is not there. An error says
// that this is not known: the record does not open, or nothing was read yet.
func (s *Store) Get(key state.Key) ([]byte, uint64, error) {
	s.mu.RLock()
	err := s.unreadLocked()
	r := s.mirror.keys[key]
	if r == nil && err == nil && len(s.mirror.names) > len(s.mirror.keys) {
		r = s.mirror.names[s.sealer.Load().name(key)] // one that never opened
	}
	var found state.Entry
	if r != nil && err == nil {
		found, err = s.mirror.entry(r)
	}
	s.mu.RUnlock()
	if err != nil {
		return nil, 0, fmt.Errorf("reading %q: %w", key, err)
	}
	return found.Value, found.Version, nil
}

// List returns copies of the records whose keys begin with prefix, by key. Those that do not
// open are left out. So are secrets, unless prefix begins as their keys do.
func (s *Store) List(prefix state.Key) ([]state.Entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.unreadLocked(); err != nil {
		return nil, fmt.Errorf("listing %q: %w", prefix, err)
	}
	return s.mirror.list(prefix), nil
}

// unreadLocked returns why nothing can be read.
func (s *Store) unreadLocked() error {
	switch {
	case s.closed:
		return state.ErrClosed
	case s.layout == 0:
		return fmt.Errorf("%w: %w", ErrUnread, cmp.Or(s.refusal, s.trouble))
	}
	return nil
}

// Swap makes the changes if every record has the version expected, all or none, and returns
// the records' new versions, 0 for a deleted one. At most MaxOps changes with 1 MiB of values
// are made at once. Swaps at the same time share a transaction.
//
// After a *state.ConflictError the mirror has the record as it was then. ErrUnavailable,
// ErrNoSpace, ErrDenied, ErrUnread and those of Err say that nothing was changed, unless they
// are ErrUnknown, too. After any other error, that of ctx included, the changes may have been
// made: read the records with Fresh before deciding anything.
func (s *Store) Swap(ctx context.Context, changes ...state.Change) ([]uint64, error) {
	return s.SwapLeased(ctx, 0, changes...)
}

// SwapLeased is Swap for records that are deleted when a lease ends. Each change of such a
// record says so again: Swap makes it one that stays. ErrLeaseLost says that nothing was
// changed, since the lease has ended.
func (s *Store) SwapLeased(ctx context.Context, lease Lease, changes ...state.Change) ([]uint64, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	r, err := s.prepare(ctx, lease, changes)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && !s.queue.Add(r, s.write) {
		err = state.ErrClosed
	}
	if err == nil {
		select {
		case <-r.done:
			err = r.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	return r.versions, nil
}

// never is a version that no key has.
const never = math.MaxInt64

// Fresh reads records from the engine, or everything if there are no keys: what Get and List
// then say is no older than the call.
func (s *Store) Fresh(ctx context.Context, keys ...state.Key) error {
	var err error
	if len(keys) == 0 {
		err = s.again(ctx)
	}
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	for keys := range slices.Chunk(keys, MaxOps) {
		if err = s.fresh(ctx, keys); err != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("reading from the store of the cluster: %w", err)
	}
	return nil
}

// fresh reads records by a transaction that is never made, whose answer has them.
func (s *Store) fresh(ctx context.Context, keys []state.Key) error {
	check, err := s.check()
	if err != nil {
		return err
	}
	seen := s.seenNow()
	ops := []Op{{Key: check.Key, Version: never, Check: true}}
	sealer := s.sealer.Load()
	for _, key := range keys {
		ops = append(ops, Op{Key: s.name(sealer, key), Version: never, Check: true})
	}
	revision, _, items, err := s.cfg.Engine.Txn(ctx, ops)
	switch {
	case err != nil:
		return err
	case len(items) != len(ops) || items[0].Version != check.Version || s.wentBack(revision, items[1:], seen):
		return s.again(ctx)
	}
	s.apply(revision, items[1:])
	return nil
}

// seenNow returns the highest revision that the engine told.
func (s *Store) seenNow() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.seen
}

// wentBack reports whether items at a revision show that the engine went back, when it had
// told another revision before it was asked.
func (s *Store) wentBack(revision int64, items []Item, seen int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return revision < seen || s.mirror.contradicted(items, revision)
}

// apply takes the engine's records at a revision into the mirror.
func (s *Store) apply(revision int64, items []Item) {
	there := slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return i.Value == nil })
	all := s.sealer.Load().open(there)
	s.mu.Lock()
	defer s.mu.Unlock()
	var changed []state.Key
	for i, item := range there {
		changed = append(changed, s.mirror.put(item, all[i]))
	}
	for _, item := range items {
		if item.Value == nil {
			changed = append(changed, s.mirror.remove(item.Key, revision))
		}
	}
	s.seen = max(s.seen, revision)
	s.changedLocked(changed)
}

// Subscribe has f called with the keys that begin with prefix and whose records changed, by
// key, each once however often it changed meanwhile: by this manager, by others, or since the
// mirror was read again. f is called by one goroutine for all, and may use the store. It may
// be in a call still when stop returns.
func (s *Store) Subscribe(prefix state.Key, f func(changed []state.Key)) (stop func()) {
	sub := &subscriber{prefix, f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers[sub] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, sub)
	}
}

// changedLocked has subscribers told of changed keys, of which some may be empty.
func (s *Store) changedLocked(keys []state.Key) {
	for _, key := range keys {
		if key != "" {
			s.changed[key] = true
		}
	}
	if len(s.changed) > 0 {
		wake(s.wakes)
	}
}

// tell calls subscribers.
func (s *Store) tell() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wakes:
		}
		s.mu.Lock()
		changed := slices.Sorted(maps.Keys(s.changed))
		clear(s.changed)
		subscribers := slices.Collect(maps.Keys(s.subscribers))
		s.mu.Unlock()
		tell(subscribers, changed)
	}
}

// tell calls subscribers with those of changed keys that are theirs.
func tell(subscribers []*subscriber, changed []state.Key) {
	for _, sub := range subscribers {
		theirs := slices.DeleteFunc(slices.Clone(changed), func(key state.Key) bool { return !strings.HasPrefix(string(key), string(sub.prefix)) })
		if len(theirs) > 0 {
			sub.f(theirs)
		}
	}
}

// Age returns how old the mirror may be: the time since a moment of which it is known that
// nothing written before is missing. That moment is the last reading of everything, or the sending
// of a change of our own that the watch has shown since. Before the first reading it is
// that since the year 1.
func (s *Store) Age() time.Duration {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ageLocked(now)
}

// ageLocked believes the clock that moved further: the monotonic one stands still while the
// machine sleeps.
func (s *Store) ageLocked(now time.Time) time.Duration {
	return max(now.Sub(s.proved), now.Round(0).Sub(s.proved.Round(0)))
}

// Err returns why the engine cannot be followed now, or why it must not be changed: ErrWiped,
// ErrKey, a state.ErrNewer. Get and List go on answering from the mirror.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return cmp.Or(s.refusal, s.trouble)
}
