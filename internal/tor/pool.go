package tor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
)

// Pool is the tors that services are spread over. Its methods may be called
// concurrently.
type Pool struct {
	tors      []*Tor
	record    event.Recorder // Run's
	times     times
	temporary string   // a directory to remove in the end
	secret    [32]byte // names circuits to tor
	auth      authorizations

	mu      sync.Mutex
	serving []*Tor        // those that have services now; never empty
	changed chan struct{} // closed when serving changes
}

// NewPool returns a pool of tors, at least one.
func NewPool(tors ...*Tor) *Pool {
	if len(tors) == 0 {
		panic("tor: a pool without a tor")
	}
	p := &Pool{tors: tors, times: defaultTimes, serving: tors, changed: make(chan struct{})}
	_, _ = rand.Read(p.secret[:]) // never fails
	return p
}

// Tors returns all tors of the pool, including those that do not serve now.
func (p *Pool) Tors() []*Tor { return slices.Clone(p.tors) }

// For returns the tor that serves an address now. It changes only when a tor
// dies or returns, and then for the addresses of that tor alone.
func (p *Pool) For(address descriptor.Address) *Tor {
	p.mu.Lock()
	serving := p.serving
	p.mu.Unlock()
	best, highest := serving[0], uint64(0)
	if len(serving) == 1 {
		return best
	}
	for _, t := range serving {
		if s := score(t.name, address); s > highest {
			best, highest = t, s
		}
	}
	return best
}

// Serving returns how many tors serve now; at least one.
func (p *Pool) Serving() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.serving)
}

// score is the weight of a tor for an address in rendezvous hashing.
func score(name string, address descriptor.Address) uint64 {
	sum := sha256.Sum256(append([]byte(name+"\x00"), address[:]...))
	return binary.BigEndian.Uint64(sum[:])
}

// Changed returns a channel that is closed when For may next give other tors
// than now. Get it before asking For.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Statuses describes the tors, in the order of Tors.
func (p *Pool) Statuses() []Status {
	p.mu.Lock()
	serving := p.serving
	p.mu.Unlock()
	list := make([]Status, len(p.tors))
	for i, t := range p.tors {
		list[i] = t.status()
		list[i].Serving = slices.Contains(serving, t)
	}
	return list
}

// Warnings lists problems between the tors, one line each.
func (p *Pool) Warnings() []string {
	var list []string
	for i, s := range p.Statuses() {
		if !s.Serving {
			list = append(list, fmt.Sprintf("%s does not serve, its services moved to the other tors: %s", s.Control, p.tors[i].trouble()))
		}
		for _, other := range s.SameGuards {
			if s.Name < other { // once for both
				list = append(list, fmt.Sprintf("the tors %s and %s use the same guard: one relay carries the traffic of both", s.Name, other))
			}
		}
	}
	return list
}

// Ready waits until one of the tors answers, and returns the first that does.
// The error is that of the first tor.
func (p *Pool) Ready(ctx context.Context) (*Tor, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		tor int
		err error
	}
	answers := make(chan answer, len(p.tors))
	for i, t := range p.tors {
		go func() { answers <- answer{i, t.Ready(ctx)} }()
	}
	var first error
	for range p.tors {
		switch a := <-answers; {
		case a.err == nil:
			return p.tors[a.tor], nil
		case a.tor == 0:
			first = a.err
		}
	}
	return nil, first
}

// Run keeps the connections, and moves services between the tors, until ctx
// ends. It records the events of the tors. It is called once.
func (p *Pool) Run(ctx context.Context, record event.Recorder) {
	p.record = record
	var group sync.WaitGroup
	for _, t := range p.tors {
		// It returns only when ctx has ended.
		group.Go(func() { _ = t.client.Run(ctx) })
		if len(p.tors) > 1 {
			group.Go(func() { p.follow(ctx, t) })
		}
	}
	if len(p.tors) > 1 {
		group.Go(func() { p.watch(ctx) })
	}
	group.Wait()
}

// Close stops the tors of our own. Run has returned by then, or never ran.
func (p *Pool) Close() {
	var group sync.WaitGroup
	for _, t := range p.tors {
		group.Go(t.close)
	}
	group.Wait()
	if p.temporary != "" {
		_ = os.RemoveAll(p.temporary)
	}
}

// watch checks the tors periodically.
func (p *Pool) watch(ctx context.Context) {
	ticker := time.NewTicker(p.times.look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.review(now)
		}
	}
}
