package lab

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/testnet"
)

// fetchTimeout is for one visitor, as long as tor's own SocksTimeout.
const fetchTimeout = 2 * time.Minute

// Visit fetches an address as someone new, over circuits that nobody else has, and
// returns the name of the instance that answered, and after how long.
func (l *Lab) Visit(ctx context.Context, address string) (name string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	began := time.Now()
	name, err = l.Net.Client(Client).Get(ctx, fmt.Sprintf("visitor%d", l.visitors.Add(1)), "http://"+address+"/")
	return strings.TrimSpace(name), time.Since(began), err
}

// NewVisit is Visit by one of Config.Crowd tors, which is nobody else's meanwhile. It
// fetches the descriptor first, from an HSDir that it draws as every new visitor's tor
// does, so that descriptors that differ between HSDirs are met by chance.
func (l *Lab) NewVisit(ctx context.Context, address string) (name string, took time.Duration, err error) {
	return l.crowdVisit(ctx, address, true)
}

// HeldVisit is NewVisit with the descriptor that the tor holds already.
func (l *Lab) HeldVisit(ctx context.Context, address string) (name string, took time.Duration, err error) {
	return l.crowdVisit(ctx, address, false)
}

func (l *Lab) crowdVisit(ctx context.Context, address string, fresh bool) (name string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var c *testnet.Client
	select {
	case c = <-l.crowd:
		defer func() { l.crowd <- c }()
	case <-ctx.Done():
		return "", 0, context.Cause(ctx)
	}
	began := time.Now()
	if fresh {
		err = c.Refetch(ctx, address, "")
	}
	if err == nil {
		name, err = c.Get(ctx, fmt.Sprintf("visitor%d", l.visitors.Add(1)), "http://"+address+"/")
	}
	return strings.TrimSpace(name), time.Since(began), err
}

// FirstVisit sends visitors until one is answered.
func (l *Lab) FirstVisit(ctx context.Context, address string) (name string, err error) {
	for {
		visit, cancel := context.WithTimeout(ctx, 10*time.Second)
		name, _, err = l.Visit(visit, address)
		cancel()
		if err == nil {
			return name, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("%w; the last visitor: %w", context.Cause(ctx), err)
		}
	}
}

// Visits sends count visitors, at most limit of them at a time, and counts into t
// who answered.
func (l *Lab) Visits(ctx context.Context, address string, count, limit int, t *Tally) error {
	return Send(ctx, count, limit, func() { t.Add(l.Visit(ctx, address)) })
}

// Send calls visit count times, at most limit of them at a time, and waits for all.
func Send(ctx context.Context, count, limit int, visit func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	turns := make(chan struct{}, limit)
	for range count {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-turns }()
			visit()
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// VisitEvery sends a visitor in each interval, however long answers take, until
// done returns true.
func (l *Lab) VisitEvery(ctx context.Context, address string, interval time.Duration, done func() bool, t *Tally) error {
	return Every(ctx, interval, done, func(int) { t.Add(l.Visit(ctx, address)) })
}

// Every calls visit in each interval, with how often it did before, however long that
// takes, until done returns true. Then it waits for all.
func Every(ctx context.Context, interval time.Duration, done func() bool, visit func(n int)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for n := 0; !done(); n++ {
		wg.Go(func() { visit(n) })
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}

// Chance is the probability that as many visitors, each drawn at random by the shares of
// what they may come to, are spread at least as unevenly as counted, by the sum of
// (counted - expected)^2/expected. It comes from samples, at most 50,000 of them, and so is
// good for few visitors too; great probabilities are to a tenth.
func Chance(counted map[string]int, shares map[string]float64) float64 {
	const samples, enough = 50_000, 100
	var names []string
	var ends []float64 // of the shares, one after the other
	n, total := 0, 0.0
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		if n += counted[name]; counted[name] > 0 && shares[name] <= 0 {
			return 0 // nobody comes there by chance
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shares)) {
		if shares[name] > 0 {
			total += shares[name]
			names, ends = append(names, name), append(ends, total)
		}
	}
	if n == 0 {
		return 1
	}
	at := make([]float64, len(names))
	unevenness := func() (sum float64) {
		for i, name := range names {
			expected := float64(n) * shares[name] / total
			sum += (at[i] - expected) * (at[i] - expected) / expected
		}
		return sum
	}
	for i, name := range names {
		at[i] = float64(counted[name])
	}
	found := unevenness() - 1e-9          // what rounding may take
	random := rand.New(rand.NewPCG(1, 2)) // the same answer for the same counts
	for reached, done := 0, 1; ; done++ {
		clear(at)
		for range n {
			i, _ := slices.BinarySearch(ends, total*random.Float64())
			at[min(i, len(at)-1)]++
		}
		if unevenness() >= found {
			reached++
		}
		if reached == enough || done == samples {
			return float64(reached) / float64(done)
		}
	}
}

// Tally counts who answered visitors.
type Tally struct {
	Told func(*Tally) // called after each visitor; may be nil

	mu       sync.Mutex
	answers  map[string]int
	failures []string
	took     []time.Duration
}

// Add counts a visitor, as unanswered if there is an error.
func (t *Tally) Add(name string, took time.Duration, err error) {
	t.count(name, took, err)
	if t.Told != nil {
		t.Told(t)
	}
}

func (t *Tally) count(name string, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failures = append(t.failures, fmt.Sprintf("%s UTC: after %.1f s: %v", time.Now().UTC().Format(time.DateTime), took.Seconds(), err))
		return
	}
	if t.answers == nil {
		t.answers = map[string]int{}
	}
	t.answers[name]++
	t.took = append(t.took, took)
}

// Answers returns how many visitors each instance answered.
func (t *Tally) Answers() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.answers)
}

// Failures returns the errors of the unanswered visitors.
func (t *Tally) Failures() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.failures)
}

// Times returns how long each answer took, in order.
func (t *Tally) Times() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(slices.Values(t.took))
}
