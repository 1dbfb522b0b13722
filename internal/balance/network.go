package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/hsdir"
)

// Source is what a Network asks of tor. GetInfo and GetConf have deadlines of
// their own; Watch fires, without queueing, when a consensus arrived or the
// connection to tor was made anew.
type Source interface {
	GetInfo(ctx context.Context, key string) ([]byte, error)
	GetConf(ctx context.Context, key string) ([]string, error)
	Watch(ctx context.Context) <-chan struct{}
	// WhyNoConsensus says how far tor has come in its bootstrap, in percent, or
	// below 0 if it cannot get on by itself, and why it gave no consensus, for
	// which refused is the error, or only an old one.
	WhyNoConsensus(ctx context.Context, refused error) (percent int, why error)
}

// ErrNoConsensus is what errors are (errors.Is) while tor has no consensus, or
// only one of an earlier life, and is on its way to one. That is no trouble yet.
var ErrNoConsensus = errors.New("no consensus yet")

// onItsWay is such an error. Its text says how far tor is.
type onItsWay struct{ error }

func (onItsWay) Is(target error) bool { return target == ErrNoConsensus }
func (e onItsWay) Unwrap() error      { return e.error }

// patience is how long a tor without a consensus may stay where it is on its way.
const patience = time.Minute

// The keys of GETINFO and GETCONF that a Network reads.
const (
	infoConsensus  = "dir/status-vote/current/consensus-microdesc"
	infoMicrodescs = "md/all"
	infoValidAfter = "consensus/valid-after"
	confTesting    = "TestingTorNetwork"
)

// How long to wait before asking tor again, should no event come. A consensus
// that is missing or incomplete is asked for sooner, then less and less often.
const (
	pollShortest = time.Second
	pollMissing  = 30 * time.Second
	pollLongest  = 10 * time.Minute
)

// Network follows the consensus of one tor and tells services when it changed.
type Network struct {
	source Source
	log    *slog.Logger
	parser hsdir.Parser

	// How far tor came on its way to a first consensus, and when. Run's alone.
	percent int
	moved   time.Time

	mu          sync.Mutex
	consensus   *hsdir.Consensus // the last good one, nil before there was one
	err         error            // of the last attempt
	subscribers map[chan struct{}]bool
}

// NewNetwork returns a Network that knows nothing until Run.
func NewNetwork(source Source, log *slog.Logger) *Network {
	return &Network{source: source, log: log, subscribers: map[chan struct{}]bool{}}
}

// Consensus returns the last good consensus, nil before there was one, and the
// error of the last attempt to learn a newer one.
func (n *Network) Consensus() (*hsdir.Consensus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.consensus, n.err
}

// Subscribe returns a channel that holds a token whenever the consensus changed
// since it was last read, and a function that ends the subscription.
func (n *Network) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribers[ch] = true
	if n.consensus != nil {
		ch <- struct{}{}
	}
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.subscribers, ch)
	}
}

// Run follows the consensus until ctx ends.
func (n *Network) Run(ctx context.Context) {
	n.moved = time.Now()
	changed := n.source.Watch(ctx)
	wait := pollMissing // for the connection, which makes changed fire
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			// What comes with a new consensus may take a moment to be complete.
			wait = 0
		case <-timer.C:
		}
		timer.Stop()
		wait = n.nextPoll(n.refresh(ctx), wait)
	}
}

// nextPoll returns how long to wait for an event before asking anyway.
func (n *Network) nextPoll(complete bool, last time.Duration) time.Duration {
	c, err := n.Consensus()
	if c == nil || err != nil || !complete {
		return min(max(2*last, pollShortest), pollMissing)
	}
	return min(max(c.FreshUntil.Sub(c.ValidAfter)/2, pollShortest), pollLongest)
}

// refresh asks tor for its consensus, unless it is the one we have, and reports
// whether nothing is missing in it.
func (n *Network) refresh(ctx context.Context) (complete bool) {
	known, _ := n.Consensus()
	if known != nil && known.Coverage.Missing == 0 {
		text, err := n.source.GetInfo(ctx, infoValidAfter)
		if err == nil && string(text) == known.ValidAfter.UTC().Format(time.DateTime) {
			n.settle(known, nil)
			return true
		}
	}
	c, err := n.learn(ctx)
	if ctx.Err() != nil {
		return false
	}
	n.settle(c, err)
	return err == nil && c.Coverage.Missing == 0
}

// learn fetches and parses both documents.
func (n *Network) learn(ctx context.Context) (*hsdir.Consensus, error) {
	consensus, err := n.source.GetInfo(ctx, infoConsensus)
	if err != nil {
		return nil, n.without(ctx, err)
	}
	microdescs, err := n.source.GetInfo(ctx, infoMicrodescs)
	if err != nil {
		return nil, fmt.Errorf("asking tor for the microdescriptors: %w", err)
	}
	testing, err := n.source.GetConf(ctx, confTesting)
	if err != nil {
		return nil, fmt.Errorf("asking tor whether the network is for testing: %w", err)
	}
	c, err := n.parser.Parse(consensus, microdescs, len(testing) == 1 && testing[0] == "1")
	if err != nil {
		return nil, fmt.Errorf("reading the consensus: %w", err)
	}
	if known, _ := n.Consensus(); known == nil && (time.Now().After(c.ValidUntil) || len(c.HSDirs) == 0) {
		// From tor's cache, and a newer one is on its way; or its
		// microdescriptors are.
		if err := n.without(ctx, nil); errors.Is(err, ErrNoConsensus) {
			return nil, err
		}
	}
	return c, nil
}

// without says why there is no consensus, or only an old one. It is
// ErrNoConsensus for as long as tor gets on.
func (n *Network) without(ctx context.Context, refused error) error {
	percent, why := n.source.WhyNoConsensus(ctx, refused)
	if percent > n.percent {
		n.percent, n.moved = percent, time.Now()
	}
	if percent < 0 || time.Since(n.moved) > patience {
		return why
	}
	return onItsWay{why}
}

// settle records an attempt and wakes the subscribers if anything is new.
func (n *Network) settle(c *hsdir.Consensus, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, ErrNoConsensus) {
			level = slog.LevelDebug
		}
		if n.err == nil || n.err.Error() != err.Error() || errors.Is(n.err, ErrNoConsensus) != (level == slog.LevelDebug) {
			n.log.Log(context.Background(), level, "no new consensus", "error", err)
		}
		n.err = err
		return
	}
	n.err = nil
	if c == n.consensus {
		return
	}
	if old := n.consensus; old == nil || !old.ValidAfter.Equal(c.ValidAfter) {
		n.log.Info("consensus", "valid_after", c.ValidAfter, "hsdirs", len(c.HSDirs), "missing_microdescriptors", c.Coverage.Missing)
	}
	n.consensus = c
	for ch := range n.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
