package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/config"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/event"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
)

// openTors prepares the connections that cfg asks for, and starts tors of our
// own where it names none.
func openTors(ctx context.Context, cfg *config.Config, log *slog.Logger) (*tor.Pool, error) {
	c, err := torConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	return tor.Open(ctx, c)
}

// borrowTors opens the tors of cfg for one command and runs the connections.
// stop ends both.
func borrowTors(ctx context.Context, cfg *config.Config, log *slog.Logger) (tors *tor.Pool, stop func(), err error) {
	c, err := torConfig(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	if tors, err = tor.Borrow(ctx, c); err != nil {
		return nil, nil, err
	}
	end := background(ctx, func(ctx context.Context) { tors.Run(ctx, func(event.Event) {}) })
	return tors, func() { end(); tors.Close() }, nil
}

// background calls run in a goroutine. stop ends its context and waits for it.
func background(ctx context.Context, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { run(ctx) })
	return func() { cancel(); wait.Wait() }
}

func torConfig(cfg *config.Config, log *slog.Logger) (tor.Config, error) {
	password, err := openfile.Resolve(cfg.Tor.PasswordFile)
	if err != nil {
		return tor.Config{}, fmt.Errorf("opening password_file: %w", err)
	}
	out := tor.Config{Own: tor.Own{Dir: cfg.StateDir, Count: max(1, cfg.Tor.Count), Binary: cfg.Tor.Binary, Torrc: cfg.Tor.Torrc}, Log: log}
	for _, target := range cfg.Tor.Controls {
		out.Control = append(out.Control, tor.Control{
			Target: target, CookieFile: cfg.Tor.CookieFile, PasswordFile: password, Remote: cfg.Tor.ControlRemote,
		})
	}
	return out, nil
}

// torStatuses describes the tors for the status.
func (r *Rooms) torStatuses() (list []status.Tor) {
	tors := r.tors.Tors()
	for n, s := range r.tors.Statuses() {
		load := r.queues[tors[n]].Load()
		list = append(list, status.Tor{
			Name: s.Name, Serving: s.Serving, Own: s.Own, Control: s.Control, Socket: s.Socket, Restarts: s.Restarts, Connected: s.Connected,
			Since: s.Since, Version: s.Version, Bootstrap: s.Bootstrap, Error: s.Error,
			Uploads: status.Uploads{
				Pending: load.Pending, InFlight: load.InFlight, Waiting: load.Waiting,
				Confirmed: load.Confirmed, Rejected: load.Rejected, Failed: load.Failed,
			},
		})
	}
	return list
}

// FetchDescriptor fetches and verifies the descriptor of address for the current
// period through the tor of cfg, and returns it as received. keyPath names a
// client-authorization key, or is empty.
func FetchDescriptor(ctx context.Context, cfg *config.Config, address descriptor.Address, keyPath string) ([]byte, error) {
	client, err := clientKey(keyPath)
	if err != nil {
		return nil, err
	}
	t, c, stop, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer stop()
	got, err := fetch(ctx, newFetcher(t), c, address, client)
	if err != nil {
		return nil, err
	}
	return got.Raw, nil
}

// fetch fetches a descriptor for the current period.
func fetch(ctx context.Context, fetcher *hsdir.Fetcher, c *hsdir.Consensus, address descriptor.Address, client *descriptor.ClientKey) (hsdir.FetchResult, error) {
	keys, err := address.Keys(c.CurrentPeriod())
	if err != nil {
		return hsdir.FetchResult{}, err
	}
	return fetcher.Fetch(ctx, c, keys, client, 0, time.Now())
}

func newFetcher(t *tor.Tor) *hsdir.Fetcher {
	return hsdir.NewFetcher(hsdir.FetchConfig{Getter: t.Client()})
}

// Consensus returns the consensus of the tor of cfg.
func Consensus(ctx context.Context, cfg *config.Config) (*hsdir.Consensus, error) {
	_, c, stop, err := connect(ctx, cfg)
	if err == nil {
		stop()
	}
	return c, err
}

// connect connects to a tor of cfg and waits for its consensus. Without an error,
// stop must be called.
func connect(ctx context.Context, cfg *config.Config) (t *tor.Tor, c *hsdir.Consensus, stop func(), err error) {
	silent := slog.New(slog.DiscardHandler)
	tors, stop, err := borrowTors(ctx, cfg, silent)
	if err != nil {
		return nil, nil, nil, err
	}
	if t, err = tors.Ready(ctx); err == nil {
		c, err = awaitConsensus(ctx, t, families(cfg), silent)
	}
	if err != nil {
		stop()
	}
	return t, c, stop, err
}

// How long to wait for a consensus: a tor of our own begins with nothing, or with
// the cache of its last run. Obstacles that tor cannot fix by itself may still pass within
// obstaclePatience, when tor has just been told to fix them.
const (
	consensusPatience = 3 * time.Minute
	obstaclePatience  = 5 * time.Second
)

// awaitConsensus waits for a complete consensus, as long as tor makes progress and
// consensusPatience lasts; then it returns an incomplete one, as that is
// better than none. An old one is returned only if no newer one arrived. It knows the
// families of some relays.
func awaitConsensus(ctx context.Context, t *tor.Tor, families [][20]byte, log *slog.Logger) (*hsdir.Consensus, error) {
	ctx, cancel := context.WithTimeout(ctx, consensusPatience)
	defer cancel()
	watcher := consensus.New(t.Client(), func(event.Event) {})
	watcher.Families(families)
	changed, unsubscribe := watcher.Subscribe()
	defer unsubscribe()
	defer background(ctx, watcher.Run)()
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
