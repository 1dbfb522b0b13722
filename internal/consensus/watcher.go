// Package consensus follows the consensus of a tor, and notifies subscribers
// when there is a new one.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/hsdir"
	"onionbalancer/internal/event"
)

// Source is what a Watcher asks of tor. GetInfo and GetConf have deadlines of
// their own; Watch fires, without queueing, when a consensus arrived or the
// connection to tor was made again.
type Source interface {
	GetInfo(ctx context.Context, key string) ([]byte, error)
	GetConf(ctx context.Context, key string) ([]string, error)
	Watch(ctx context.Context) <-chan struct{}
	// WhyNoConsensus returns tor's bootstrap progress, in percent, or
	// below 0 if it cannot continue by itself, and why it has no consensus, for
	// which refused is the error, or only an old one.
	WhyNoConsensus(ctx context.Context, refused error) (percent int, why error)
}

// ErrNone matches (errors.Is) errors while tor has no consensus, or
// only one of an earlier run, and is still fetching one. That is not a problem yet.
var ErrNone = errors.New("no consensus yet")

// onItsWay is such an error. Its text has tor's progress.
type onItsWay struct{ error }

func (onItsWay) Is(target error) bool { return target == ErrNone }
func (e onItsWay) Unwrap() error      { return e.error }

// patience is how long a tor without a consensus may go without progress.
const patience = time.Minute

// The keys of GETINFO and GETCONF that a Watcher reads.
const (
	infoConsensus  = "dir/status-vote/current/consensus-microdesc"
	infoMicrodescs = "md/all"
	infoValidAfter = "consensus/valid-after"
	confTesting    = "TestingTorNetwork"
)

// How long to wait before polling tor again without an event. A
// missing or incomplete consensus is polled for sooner, with backoff.
const (
	pollShortest = time.Second
	pollMissing  = 30 * time.Second
	pollLongest  = 10 * time.Minute
)

// Watcher follows the consensus of one tor and notifies subscribers when it changed.
type Watcher struct {
	source Source
	record event.Recorder
	parser hsdir.Parser
	again  chan struct{} // holds a token when the consensus is to be read again

	// Progress of tor towards a first consensus, and when it was made. Run's alone.
	percent int
	moved   time.Time

	mu          sync.Mutex
	consensus   *hsdir.Consensus // the last good one, nil before there was one
	err         error            // of the last attempt
	subscribers map[chan struct{}]bool
}

// New returns a Watcher without a consensus, until Run.
func New(source Source, record event.Recorder) *Watcher {
	return &Watcher{source: source, record: record, again: make(chan struct{}, 1), subscribers: map[chan struct{}]bool{}}
}

// Families has the consensus know the families of some relays (hsdir.Parser.Families),
// from the next time on that it is read, which is soon.
func (w *Watcher) Families(of [][20]byte) {
	if !w.parser.Families(of) {
		return
	}
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// Consensus returns the last good consensus, nil before there was one, and the
// error of the last attempt to get a newer one.
func (w *Watcher) Consensus() (*hsdir.Consensus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.consensus, w.err
}

// Subscribe returns a channel that holds a token whenever the consensus changed
// since it was last read, and a function that ends the subscription.
func (w *Watcher) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribers[ch] = true
	if w.consensus != nil {
		ch <- struct{}{}
	}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subscribers, ch)
	}
}

// Run follows the consensus until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	w.moved = time.Now()
	changed := w.source.Watch(ctx)
	wait := pollMissing // for the connection, which makes changed fire
	again := false      // until it was
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.again:
			again = true
		case <-changed:
			// The documents of a new consensus may take a moment to be complete.
			wait = 0
		case <-timer.C:
		}
		timer.Stop()
		complete := w.refresh(ctx, again)
		again = again && !complete
		wait = w.nextPoll(complete, wait)
	}
}

// nextPoll returns how long to wait for an event before polling.
func (w *Watcher) nextPoll(complete bool, last time.Duration) time.Duration {
	c, err := w.Consensus()
	if c == nil || err != nil || !complete {
		return min(max(2*last, pollShortest), pollMissing)
	}
	return min(max(c.FreshUntil.Sub(c.ValidAfter)/2, pollShortest), pollLongest)
}

// refresh asks tor for its consensus, unless it is the one we have and need not be read
// again, and reports whether it is complete.
func (w *Watcher) refresh(ctx context.Context, again bool) (complete bool) {
	known, _ := w.Consensus()
	if known != nil && !again && known.Coverage.Missing == 0 {
		text, err := w.source.GetInfo(ctx, infoValidAfter)
		if err == nil && string(text) == known.ValidAfter.UTC().Format(time.DateTime) {
			w.settle(known, nil)
			return true
		}
	}
	c, err := w.learn(ctx)
	if ctx.Err() != nil {
		return false
	}
	w.settle(c, err)
	return err == nil && c.Coverage.Missing == 0
}

// learn fetches and parses both documents.
func (w *Watcher) learn(ctx context.Context) (*hsdir.Consensus, error) {
	consensus, err := w.source.GetInfo(ctx, infoConsensus)
	if err != nil {
		return nil, w.without(ctx, err)
	}
	microdescs, err := w.source.GetInfo(ctx, infoMicrodescs)
	if err != nil {
		return nil, fmt.Errorf("asking tor for the microdescriptors: %w", err)
	}
	testing, err := w.source.GetConf(ctx, confTesting)
	if err != nil {
		return nil, fmt.Errorf("asking tor whether the network is for testing: %w", err)
	}
	c, err := w.parser.Parse(consensus, microdescs, len(testing) == 1 && testing[0] == "1")
	if err != nil {
		return nil, fmt.Errorf("reading the consensus: %w", err)
	}
	if known, _ := w.Consensus(); known == nil && (time.Now().After(c.ValidUntil) || len(c.HSDirs) == 0) {
		// From tor's cache, and a newer one is being fetched; or its
		// microdescriptors are.
		if err := w.without(ctx, nil); errors.Is(err, ErrNone) {
			return nil, err
		}
	}
	return c, nil
}

// without says why there is no consensus, or only an old one. It is
// ErrNone as long as tor makes progress.
func (w *Watcher) without(ctx context.Context, refused error) error {
	percent, why := w.source.WhyNoConsensus(ctx, refused)
	if percent > w.percent {
		w.percent, w.moved = percent, time.Now()
	}
	if percent < 0 || time.Since(w.moved) > patience {
		return why
	}
	return onItsWay{why}
}

// settle records an attempt and wakes the subscribers if anything is new.
func (w *Watcher) settle(c *hsdir.Consensus, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, ErrNone) {
			level = slog.LevelDebug
		}
		if w.err == nil || w.err.Error() != err.Error() || errors.Is(w.err, ErrNone) != (level == slog.LevelDebug) {
			w.record(event.Event{At: time.Now(), Kind: event.Consensus, Level: level, Text: "no new consensus", Attrs: []slog.Attr{slog.Any("error", err)}})
		}
		w.err = err
		return
	}
	w.err = nil
	if c == w.consensus {
		return
	}
	if old := w.consensus; old == nil || !old.ValidAfter.Equal(c.ValidAfter) {
		w.record(event.Event{At: time.Now(), Kind: event.Consensus, Text: "consensus", Attrs: []slog.Attr{
			slog.Time("valid_after", c.ValidAfter), slog.Int("hsdirs", len(c.HSDirs)), slog.Int("missing_microdescriptors", c.Coverage.Missing),
		}})
	}
	w.consensus = c
	for ch := range w.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
