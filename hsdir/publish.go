package hsdir

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Poster has tor upload a descriptor to one HSDir, and returns nil when the
// HSDir confirmed: address is 56 characters, hsdir 40 hexadecimal digits. It
// returns soon after ctx ends, and may be used by several goroutines. An error
// with a method Reason() string gives tor's word for a failed upload.
type Poster interface {
	HSPost(ctx context.Context, address, hsdir string, body []byte) error
}

// PublishConfig says how to publish. Zero values stand for the defaults.
type PublishConfig struct {
	Poster Poster

	InFlight int           // uploads under way at a time, over all services; 16
	Patience time.Duration // with one upload, and with one Encode; 60 s
	// The wait before an upload is tried again begins with Backoff, 2 s, and
	// doubles to BackoffMax, 5 min; each is shortened at random by up to half.
	Backoff, BackoffMax time.Duration
	Random              func() float64 // in [0, 1); rand.Float64
}

// Publisher uploads descriptors, each slot for itself, until every slot is
// confirmed. What is not confirmed is tried again, on another circuit: tor
// gives every upload a circuit of its own, since it never lets two anonymous
// directory connections share one. A Publisher is safe for concurrent use.
type Publisher struct {
	cfg   PublishConfig
	ctx   context.Context // of all uploads
	stop  context.CancelFunc
	posts sync.WaitGroup

	mu       sync.Mutex // protects what follows
	tasks    map[place]*task
	ready    []*task // to be started; may hold some that were dropped
	makers   map[descriptor.Address]*maker
	busy     map[route]bool
	inFlight int
	retrying int // of inFlight, those that failed before
	sequence uint64
	closed   bool
}

// place is where a descriptor goes; there is one task for each at a time.
type place struct {
	address descriptor.Address
	period  descriptor.Period
	hsdir   [20]byte
}

// route is what tor's events name an upload by. Two at a time on one route
// could not be told apart.
type route struct {
	address descriptor.Address
	hsdir   [20]byte
}

// task is a slot that is not confirmed.
type task struct {
	*Publication
	slot     Slot
	failures int
	sequence uint64
	dropped  bool
	timer    *time.Timer        // until it is ready again
	body     []byte             // of the next upload, if Slow and made
	unmake   context.CancelFunc // ends the making that is under way
}

func (t *task) place() place { return place{t.Address, t.Period, t.slot.HSDir} }
func (t *task) route() route { return route{t.Address, t.slot.HSDir} }

// NewPublisher returns a Publisher. Close ends it.
func NewPublisher(cfg PublishConfig) *Publisher {
	cfg.InFlight = cmp.Or(max(cfg.InFlight, 0), 16)
	cfg.Patience = cmp.Or(cfg.Patience, time.Minute)
	cfg.Backoff = cmp.Or(cfg.Backoff, 2*time.Second)
	cfg.BackoffMax = max(cmp.Or(cfg.BackoffMax, 5*time.Minute), cfg.Backoff)
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	p := &Publisher{cfg: cfg, tasks: make(map[place]*task), busy: make(map[route]bool)}
	p.makers = make(map[descriptor.Address]*maker)
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Publish begins to fill the slots of pub, and returns at once. A slot that an
// earlier publication for the same address and period has not filled yet is
// filled with pub alone; an upload to it that is under way comes to its end
// first. After Close it does nothing.
func (p *Publisher) Publish(pub Publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	failures := make(map[place]int)
	for at, t := range p.tasks {
		if at.address == pub.Address && at.period == pub.Period {
			failures[at] = t.failures
			if !pub.Adds {
				p.drop(t)
			}
		}
	}
	for _, slot := range pub.Slots {
		t := &task{Publication: &pub, slot: slot}
		at := t.place()
		// Who did not answer before may wait longer next time, too.
		t.failures = failures[at]
		if old := p.tasks[at]; old != nil {
			p.drop(old)
		}
		p.tasks[at] = t
		p.enqueue(t)
	}
	p.wake(pub.Address) // its key may be another
	p.start()
}

// Retain drops what is still to be done for address, save for those slots of
// which keep says that they still matter: those of a period that is not over
// and of HSDirs that are still responsible. keep must not use p.
func (p *Publisher) Retain(address descriptor.Address, keep func(descriptor.Period, Slot) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, t := range p.tasks {
		if at.address == address && !keep(at.period, t.slot) {
			p.drop(t)
		}
	}
}

// Withdraw drops what is still to be done for address. What was uploaded stays
// where it is.
func (p *Publisher) Withdraw(address descriptor.Address) {
	p.Retain(address, func(descriptor.Period, Slot) bool { return false })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake(address)
	delete(p.makers, address)
}

// Hurry tries at once what is waiting to be tried again: the connection to tor,
// or tor's to the network, is back.
func (p *Publisher) Hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tasks {
		if t.timer != nil && t.timer.Stop() {
			t.timer = nil
			p.enqueue(t)
		}
	}
	p.start()
}

// Outstanding returns how many slots are not confirmed yet, whether under way,
// waiting for their turn or to be tried again.
func (p *Publisher) Outstanding() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tasks)
}

// Close drops everything, and returns when nothing is under way any more.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	for _, t := range p.tasks {
		p.drop(t)
	}
	for address := range p.makers {
		p.wake(address)
	}
	p.mu.Unlock()
	p.stop()
	p.posts.Wait()
}
