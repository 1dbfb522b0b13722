package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/check"
	"onionbalancer/internal/config"
	"onionbalancer/internal/consensus"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
)

// Rooms has the components that services share, between the tors and the services.
type Rooms struct {
	tors      *tor.Pool
	record    event.Recorder
	consensus *consensus.Watcher
	queues    map[*tor.Tor]*hsdir.UploadQueue
	fetchers  map[*tor.Tor]*hsdir.Fetcher
	checks    *check.Runner
	backends  *backend.Set

	publishRate int
}

// publishBurst is how many seconds' uploads may begin at once after a pause.
const publishBurst = 10

// NewRooms wires the components together. Nothing runs yet. Checks go through dialer,
// tors if it is nil. publishRate is how many uploads a second go through each tor in the
// long run while all serve; 0 leaves it to the queues. The operator's words are in words, in
// store if it is nil.
func NewRooms(tors *tor.Pool, dialer check.Dialer, store *state.DB, words backend.WordStore, record event.Recorder, publishRate int) *Rooms {
	if dialer == nil {
		dialer = tors
	}
	r := &Rooms{tors: tors, publishRate: publishRate, record: record, consensus: consensus.New(poolSource{tors}, record), queues: map[*tor.Tor]*hsdir.UploadQueue{}, fetchers: map[*tor.Tor]*hsdir.Fetcher{}}
	for _, t := range tors.Tors() {
		r.queues[t] = hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: t.Poster(), PerSecond: float64(publishRate), Burst: publishBurst * publishRate})
		r.fetchers[t] = newFetcher(t)
	}
	r.checks = check.New(check.Config{Prober: check.Through(dialer)})
	r.backends = backend.New(backend.Config{Consensus: r.consensus, Fetcher: r, Checks: r.checks, Store: store, Words: words, Record: record, Now: failpoint.Now()})
	return r
}

// Env is the environment of the services.
func (r *Rooms) Env(store *state.DB, record event.Recorder) balance.Env {
	return balance.Env{
		Consensus: r.consensus, Backends: r.backends, Fetcher: r, Store: store, Record: record, Visitor: r.checks, Checked: r.backends.LastCheck,
		Gates:   credential.NewGates(),
		Now:     failpoint.Now(),
		Uploads: func(a descriptor.Address) balance.Uploader { return r.queues[r.tors.For(a)] },
	}
}

// Configure takes over how instances are checked in general, at any time.
func (r *Rooms) Configure(c config.Check) {
	var canary descriptor.Address
	var spec health.Spec
	if c.Canary != "" {
		address, port, err := config.CanaryTarget(c.Canary)
		if err == nil { // as config.Parse has seen
			canary, spec = address, health.Spec{Kind: health.TCP, Port: port, AnyPort: true, Timeout: canaryTimeout, Patient: true}
		}
	}
	r.checks.Configure(c.Rate, canary, spec)
}

// canaryTimeout is that of a visit of the canary.
const canaryTimeout = 15 * time.Second

// Run runs the components until ctx ends. moved is called when services may have to
// upload through another tor.
func (r *Rooms) Run(ctx context.Context, moved func()) {
	// The connections to tor outlive the checks, which take their client keys back.
	connected, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	wait.Go(func() { r.tors.Run(connected, r.record) })
	wait.Go(func() { r.consensus.Run(ctx) })
	wait.Go(func() { r.backends.Run(ctx) })
	wait.Go(func() { defer disconnect(); r.checks.Run(ctx) })
	for t, queue := range r.queues {
		// Retry pending uploads at once when tor is back.
		wait.Go(func() { t.EachConnect(ctx, queue.RetryNow) })
	}
	wait.Go(func() {
		for {
			changed := r.tors.Changed()
			r.shareRate()
			moved()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	wait.Wait()
}

// Fit returns why nothing can be published now: no tor answers, or there is no consensus that
// clients use.
func (r *Rooms) Fit() error {
	if !slices.ContainsFunc(r.tors.Statuses(), func(s tor.Status) bool { return s.Connected }) {
		return errors.New("no tor answers")
	}
	switch c, err := r.consensus.Consensus(); {
	case c == nil:
		return cmp.Or(err, consensus.ErrNone)
	case !c.ReasonablyLive(time.Now()):
		return fmt.Errorf("tor has no consensus but one that was valid until %s", utc(c.ValidUntil))
	}
	return nil
}

// shareRate has the tors that serve make up for those that do not: as many uploads go
// through all of them together as are allowed when none is dead.
func (r *Rooms) shareRate() {
	if r.publishRate == 0 {
		return
	}
	for _, queue := range r.queues {
		queue.SetRate(float64(r.publishRate*len(r.queues)) / float64(r.tors.Serving()))
	}
}

// Close ends all uploads.
func (r *Rooms) Close() {
	for _, queue := range r.queues {
		queue.Close()
	}
}

// Fetch fetches through the tor that serves the address.
func (r *Rooms) Fetch(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, client *descriptor.ClientKey, floor uint64, now time.Time) (hsdir.FetchResult, error) {
	return r.fetchers[r.tors.For(keys.Address)].Fetch(ctx, c, keys, client, floor, now)
}

// AskOuter asks one HSDir through that tor.
func (r *Rooms) AskOuter(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, at [20]byte, now time.Time) (hsdir.FetchResult, error) {
	return r.fetchers[r.tors.For(keys.Address)].AskOuter(ctx, c, keys, at, now)
}

// poolSource asks the tor of a pool that has the best consensus now.
type poolSource struct{ tors *tor.Pool }

func (p poolSource) tor() *tor.Tor { return p.tors.For(descriptor.Address{}) }

// GetInfo implements consensus.Source.
func (p poolSource) GetInfo(ctx context.Context, key string) ([]byte, error) {
	return p.tor().Client().GetInfo(ctx, key)
}

// GetConf implements consensus.Source.
func (p poolSource) GetConf(ctx context.Context, key string) ([]string, error) {
	return p.tor().Client().GetConf(ctx, key)
}

// WhyNoConsensus implements consensus.Source.
func (p poolSource) WhyNoConsensus(ctx context.Context, refused error) (int, error) {
	return p.tor().Client().WhyNoConsensus(ctx, refused)
}

// Watch implements consensus.Source: it fires for every tor.
func (p poolSource) Watch(ctx context.Context) <-chan struct{} {
	all := p.tors.Tors()
	if len(all) == 1 {
		return all[0].Client().Watch(ctx)
	}
	any := make(chan struct{}, 1)
	for _, t := range all {
		changed := t.Client().Watch(ctx)
		go func() {
			for {
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
				select {
				case any <- struct{}{}:
				default:
				}
			}
		}()
	}
	return any
}
