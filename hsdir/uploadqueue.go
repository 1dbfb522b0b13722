package hsdir

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Publication is one descriptor and the slots to fill with it.
type Publication struct {
	Address descriptor.Address
	Period  descriptor.Period
	Slots   []Slot // those named first are filled first, and Reserve ones last
	// Adds says that the slots join those of earlier publications for the same
	// Address and Period. Without it, what is still to be done for these is
	// dropped: the publication takes their place.
	Adds bool
	// Encode makes the bytes of one upload. It is called once for each, so that
	// no two are encrypted alike, and by several goroutines. It returns soon
	// after ctx ends.
	Encode func(ctx context.Context) ([]byte, error)
	// Slow says that Encode may take long or fail for a while, because it asks a
	// token for signatures. It is then called for one slot of the address at a
	// time, before the upload takes one of the Publisher's places; and when it
	// fails, all slots of the address wait.
	Slow bool
	// Report is told what became of each upload, by several goroutines. It may
	// use the Publisher. No more is reported of what was dropped; but a report
	// that is under way at the time may still come.
	Report func(UploadResult)
}

// UploadResult is what became of one upload.
type UploadResult struct {
	Slot Slot
	Err  error // nil when the HSDir confirmed
	// Rejected says that the HSDir refused the descriptor: it has one with the
	// same or a higher revision counter, or finds a fault with it. When an upload
	// before went unanswered, it may be that one that it has. It is not tried
	// again: it takes another descriptor.
	Rejected bool
	Unmade   bool          // Err is Encode's, and nothing was sent
	Failures int           // uploads to this slot, in a row, that nobody answered, or to any that were Unmade
	Retry    time.Duration // until it is tried again; 0 for never
	Took     time.Duration
}

// uploadRejected is tor's word for an HSDir that refused (HTTP status 400).
const uploadRejected = "UPLOAD_REJECTED"

// rejected reports whether err is an HSDir's refusal.
func rejected(err error) bool {
	var failed interface{ Reason() string }
	return errors.As(err, &failed) && failed.Reason() == uploadRejected
}

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

// drop takes a task out. One that is under way comes to its end unheard. The
// caller holds p.mu.
func (p *Publisher) drop(t *task) {
	t.dropped = true
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if t.unmake != nil {
		t.unmake()
	}
	if p.tasks[t.place()] == t {
		delete(p.tasks, t.place())
	}
}

// enqueue makes a task ready to start. The caller holds p.mu and calls start.
func (p *Publisher) enqueue(t *task) {
	p.sequence++
	t.sequence = p.sequence
	p.ready = append(p.ready, t)
}

// start starts what may start. The caller holds p.mu.
//
// Slots that clients ask go before reserve ones, and those that never failed
// before those that did. The latter get half of the places at most, so that
// HSDirs that never answer do not keep others waiting.
func (p *Publisher) start() {
	slices.SortFunc(p.ready, func(a, b *task) int {
		return cmp.Or(
			compareBool(a.failures > 0, b.failures > 0),
			compareBool(a.slot.Reserve, b.slot.Reserve),
			cmp.Compare(a.sequence, b.sequence))
	})
	p.ready = slices.DeleteFunc(p.ready, func(t *task) bool {
		if t.dropped {
			return true
		}
		if p.inFlight >= p.cfg.InFlight || p.busy[t.route()] ||
			t.failures > 0 && p.retrying >= max(1, p.cfg.InFlight/2) {
			return false
		}
		if t.Slow && t.body == nil {
			return p.make(t)
		}
		p.launch(t)
		return true
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// launch begins an upload. The caller holds p.mu.
func (p *Publisher) launch(t *task) {
	again, made := t.failures > 0, t.body
	t.body = nil // the next upload has bytes of its own
	p.busy[t.route()] = true
	p.inFlight++
	if again {
		p.retrying++
	}
	p.posts.Go(func() {
		began := time.Now()
		result := UploadResult{Slot: t.slot}
		result.Unmade, result.Err = p.upload(t, made)
		result.Took = time.Since(began)

		p.mu.Lock()
		delete(p.busy, t.route())
		p.inFlight--
		if again {
			p.retrying--
		}
		heard := p.settle(t, &result)
		p.start()
		p.mu.Unlock()
		if heard && t.Report != nil {
			t.Report(result)
		}
	})
}

// upload posts the descriptor made for this one slot, or encodes it first. It
// reports whether that is what failed.
func (p *Publisher) upload(t *task, made []byte) (unmade bool, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Patience)
	defer cancel()
	if made == nil {
		if made, err = t.Encode(ctx); err != nil {
			return true, err
		}
	}
	hsdir := Relay{Fingerprint: t.slot.HSDir}.Hex()
	return false, p.cfg.Poster.HSPost(ctx, t.Address.Label(), hsdir, made)
}

// settle decides what follows upon an upload, fills in the rest of its result,
// and reports whether anybody still wants to know. The caller holds p.mu.
func (p *Publisher) settle(t *task, result *UploadResult) bool {
	if t.dropped {
		return false
	}
	if result.Err == nil || !result.Unmade && rejected(result.Err) {
		result.Rejected = result.Err != nil
		p.drop(t)
		return true
	}
	t.failures++
	result.Failures, result.Retry = t.failures, p.backoff(t.failures, p.cfg.BackoffMax)
	t.timer = time.AfterFunc(result.Retry, func() { p.again(t) })
	return true
}

// again makes a task ready whose wait is over.
func (p *Publisher) again(t *task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.dropped || t.timer == nil {
		return
	}
	t.timer = nil
	p.enqueue(t)
	p.start()
}

// backoff is the wait after so many failures in a row, longest at the most.
func (p *Publisher) backoff(failures int, longest time.Duration) time.Duration {
	wait := min(p.cfg.Backoff, longest)
	for range failures - 1 {
		if wait *= 2; wait >= longest {
			wait = longest
			break
		}
	}
	return wait - time.Duration(p.cfg.Random()*float64(wait)/2)
}

// unmadeBackoffMax is the longest wait after a slow Encode failed. It is short:
// trying costs the network nothing, and a token that is put back shall be used
// soon.
const unmadeBackoffMax = 30 * time.Second

// maker makes the bytes of the Slow publications of one address, one upload at a
// time. One that hangs holds up nothing but its own address.
type maker struct {
	busy     bool
	failures int         // in a row
	timer    *time.Timer // until it tries again
}

// make begins to make the bytes for a task, unless those of another of its
// address are being made, or the last try failed a moment ago. It reports
// whether it did; then the task is ready again when they are made. The caller
// holds p.mu.
func (p *Publisher) make(t *task) bool {
	m := p.makers[t.Address]
	if m == nil {
		m = new(maker)
		p.makers[t.Address] = m
	}
	if m.busy || m.timer != nil {
		return false
	}
	m.busy = true
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Patience)
	t.unmake = cancel
	p.posts.Go(func() {
		defer cancel()
		began := time.Now()
		body, err := t.Encode(ctx)
		result := UploadResult{Slot: t.slot, Err: err, Unmade: true, Took: time.Since(began)}

		p.mu.Lock()
		m.busy, t.unmake = false, nil
		heard := p.made(m, t, body, &result)
		p.start()
		p.mu.Unlock()
		if heard && t.Report != nil {
			t.Report(result)
		}
	})
	return true
}

// made takes in what became of making t's bytes, and reports whether that is a
// failure which somebody wants to know of. The caller holds p.mu and calls start.
func (p *Publisher) made(m *maker, t *task, body []byte, result *UploadResult) bool {
	if t.dropped {
		return false // and says nothing about the key that is used now
	}
	p.ready = append(p.ready, t)
	if result.Err == nil {
		t.body, m.failures = body, 0
		return false
	}
	m.failures++
	result.Failures, result.Retry = m.failures, p.backoff(m.failures, unmadeBackoffMax)
	var timer *time.Timer
	timer = time.AfterFunc(result.Retry, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if m.timer == timer {
			m.timer = nil
			p.start()
		}
	})
	m.timer = timer
	return true
}

// wake ends the wait after a failure to make anything for address. The caller
// holds p.mu and calls start.
func (p *Publisher) wake(address descriptor.Address) {
	if m := p.makers[address]; m != nil && m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}
