package hsdir

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/semaphore"

	"onionbalancer/descriptor"
)

// Getter has tor fetch a descriptor from one HSDir: address is 56 characters,
// hsdir 40 hexadecimal digits. It returns soon after ctx ends, and may be used
// by several goroutines. An error with a method Reason() string gives tor's
// word for a failed fetch.
type Getter interface {
	HSFetch(ctx context.Context, address, hsdir string) ([]byte, error)
}

// FetchConfig says how to fetch. Zero values stand for the defaults.
type FetchConfig struct {
	Getter  Getter
	Decoder *descriptor.Decoder // nil: one of the Fetcher's own

	InFlight int           // fetches under way at a time, over all services; 16
	Patience time.Duration // with one HSDir, before the next is asked; 14 s
	Total    time.Duration // for one fetch, all its HSDirs together; 60 s: four of a replica
	// SecondOpinion is how long, after a good answer, the other replica may
	// still take; 5 s.
	SecondOpinion time.Duration
	// Shuffle puts the HSDirs of a replica in a random order, as a client does;
	// rand.Shuffle.
	Shuffle func(n int, swap func(i, j int))
}

// Fetcher asks HSDirs for descriptors. It is safe for concurrent use.
type Fetcher struct {
	cfg    FetchConfig
	places *semaphore.Weighted
}

// NewFetcher returns a Fetcher.
func NewFetcher(cfg FetchConfig) *Fetcher {
	if cfg.Decoder == nil {
		cfg.Decoder = new(descriptor.Decoder)
	}
	cfg.InFlight = cmp.Or(max(cfg.InFlight, 0), 16)
	cfg.Patience = cmp.Or(cfg.Patience, 14*time.Second)
	cfg.Total = cmp.Or(cfg.Total, time.Minute)
	cfg.SecondOpinion = cmp.Or(cfg.SecondOpinion, 5*time.Second)
	if cfg.Shuffle == nil {
		cfg.Shuffle = rand.Shuffle
	}
	return &Fetcher{cfg: cfg, places: semaphore.NewWeighted(int64(cfg.InFlight))}
}

// Fetch asks HSDirs of two replicas, side by side, for the descriptor of keys,
// which must be for the period that clients fetch, and returns the one with the
// highest revision counter that is valid at now. client is nil, or opens the
// descriptor of a service with client authorization. A revision counter below
// floor makes a descriptor a replay.
//
// An HSDir that does not answer, has nothing or lies is followed by the next of
// its replica. The fetch ends when both replicas answered well, when one did
// and the other takes too long, when all HSDirs were asked, or when its time is
// up. The result says what each HSDir did, whether or not there is an error;
// the error tells ErrNotFound, ErrNoAnswer, ErrInvalid, ErrReplayed,
// ErrNoHSDirs and descriptor.ErrClientKey apart.
func (f *Fetcher) Fetch(ctx context.Context, c *Consensus, keys descriptor.PeriodKeys, client *descriptor.ClientKey, floor uint64, now time.Time) (FetchResult, error) {
	ring := c.Current()
	fail := func(err error) (FetchResult, error) {
		return FetchResult{}, fmt.Errorf("fetching the descriptor of %s: %w", keys.Address.Short(), err)
	}
	if keys.Period != ring.Period {
		// tor would ask for the current period's descriptor, whatever we want.
		return fail(fmt.Errorf("keys for period %v, but clients fetch for %v", keys.Period, ring.Period))
	}
	if ring.Len() == 0 {
		return fail(fmt.Errorf("%w (%v)", ErrNoHSDirs, c.Coverage))
	}
	q := &query{f: f, keys: keys, client: client, floor: floor, now: now, label: keys.Address.Label()}
	q.prepare(ring)
	q.run(ctx)
	result := FetchResult{Descriptor: q.best, Raw: q.raw, HSDirs: q.inOrder()}
	if result.Descriptor != nil {
		return result, nil
	}
	err := result.verdict()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return result, fmt.Errorf("fetching the descriptor of %s: %w", keys.Address.Short(), err)
}
