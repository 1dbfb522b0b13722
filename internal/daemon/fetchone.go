package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/config"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/event"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
)

// FetchDescriptor fetches and verifies the descriptor of address for the current
// period through the tor of cfg, and returns it as it came. keyPath names a
// client-authorization key, or is empty.
func FetchDescriptor(ctx context.Context, cfg *config.Config, address descriptor.Address, keyPath string) ([]byte, error) {
	client, err := clientKey(keyPath)
	if err != nil {
		return nil, err
	}
	var got hsdir.FetchResult
	err = withConsensus(ctx, cfg, func(t *tor.Tor, c *hsdir.Consensus) error {
		keys, err := address.Keys(c.CurrentPeriod())
		if err != nil {
			return err
		}
		got, err = newFetcher(t).Fetch(ctx, c, keys, client, 0, time.Now())
		return err
	})
	if err != nil {
		return nil, err
	}
	return got.Raw, nil
}

func newFetcher(t *tor.Tor) *hsdir.Fetcher {
	return hsdir.NewFetcher(hsdir.FetchConfig{Getter: t.Client()})
}

// Consensus returns the consensus of the tor of cfg.
func Consensus(ctx context.Context, cfg *config.Config) (*hsdir.Consensus, error) {
	var found *hsdir.Consensus
	err := withConsensus(ctx, cfg, func(_ *tor.Tor, c *hsdir.Consensus) error {
		found = c
		return nil
	})
	return found, err
}

// withConsensus connects to the tor of cfg, waits for its consensus, and calls
// do with both.
func withConsensus(ctx context.Context, cfg *config.Config, do func(*tor.Tor, *hsdir.Consensus) error) error {
	tors, stop, err := borrowTors(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer stop()
	t, err := tors.Ready(ctx)
	if err != nil {
		return err
	}
	c, err := awaitConsensus(ctx, t, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return do(t, c)
}

// How long to wait for a consensus: a tor of our own begins with nothing, or with
// what it kept from its last life. What tor cannot fix by itself may pass within
// obstaclePatience all the same, when it was just told to fix it.
const (
	consensusPatience = 3 * time.Minute
	obstaclePatience  = 5 * time.Second
)

// awaitConsensus waits until there is a consensus with nothing missing in it, for
// as long as tor gets on and consensusPatience lasts; then an incomplete one is
// better than none. An old one is returned only if no newer one came.
func awaitConsensus(ctx context.Context, t *tor.Tor, log *slog.Logger) (*hsdir.Consensus, error) {
	ctx, cancel := context.WithTimeout(ctx, consensusPatience)
	defer cancel()
	watcher := consensus.New(t.Client(), func(event.Event) {})
	changed, unsubscribe := watcher.Subscribe()
	defer unsubscribe()
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		watcher.Run(watching)
	}()
	defer func() { stop(); <-done }()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var seen string // what tor last said, and since when
	var since time.Time
	told := false
	for {
		select {
		case <-changed:
			if c, _ := watcher.Consensus(); c != nil && c.Coverage.Missing == 0 {
				return c, nil
			}
		case <-second.C:
			c, err := watcher.Consensus()
			if c != nil || err == nil {
				continue
			}
			if text, _ := control.Split(err); text != seen {
				seen, since, told = text, time.Now(), false
			}
			if time.Since(since) < obstaclePatience {
				continue
			}
			if !errors.Is(err, consensus.ErrNone) {
				return nil, err
			}
			if !told {
				told = true
				log.Info("waiting for a consensus", "state", seen)
			}
		case <-ctx.Done():
			c, err := watcher.Consensus()
			if c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("waiting for a consensus: %w", cmp.Or(err, ctx.Err()))
		}
	}
}
