package hsdir

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/failpoint"
)

// UploadQueue uploads descriptors through one tor, each slot separately, until an
// HSDir confirmed or rejected it. It retries on another circuit: tor gives every
// upload a circuit of its own, since it never lets two anonymous directory
// connections share one.
//
// Uploads of a lower Urgency go first; among equals, slots that clients ask
// before Reserve ones, first attempts before second ones and these before later ones, then
// first in, first out. Only a renewal that has waited for ten minutes goes before what can
// wait: HSDirs drop a descriptor that is not renewed, however much else there is to do.
// Retries take half of the places in flight at most, so that HSDirs that never
// answer do not block others. Two uploads of one address to one HSDir are never
// in flight together, since tor's events could not tell them apart.
//
// An UploadQueue is safe for concurrent use. No operation takes longer the more is
// pending, except by the logarithm of the number of waiting retries; only RetryNow
// visits all of these.
type UploadQueue struct {
	cfg     UploadConfig
	backoff backoff.Policy
	began   time.Time
	ctx     context.Context // of everything in flight
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // protects the fields below
	editions map[descriptor.Address][]*edition
	pending  int
	ready    [urgencies][2][attempts]taskList // by urgency, Reserve, and how often it was tried
	waiting  retryHeap
	inFlight map[route]*flight
	retrying int // of inFlight, those that are retries
	results  UploadCounts
	tokens   *rate.Limiter
	timer    *time.Timer // for the next retry or token
	closed   bool
}

// attempts is how many kinds of ready tasks there are by how often they were tried: never,
// once, and more often.
const attempts = 3

// edition is an Upload with a task for each slot.
type edition struct {
	Upload
	tasks   []task
	queued  time.Duration // since the queue was made
	left    int           // tasks not done
	dropped bool
}

// task is one slot of an edition: ready or blocked when it is in a list, waiting
// when it is in the heap, else in flight or done. There may be many: it is small,
// and has neither goroutine nor timer.
type task struct {
	edition    *edition
	list       *taskList
	prev, next *task
	retryAt    time.Duration // since the queue was made
	place      int32         // in the heap, plus 1; 0 while it is not there
	slot       int32         // in edition.Slots
	failures   int32         // in a row
}

// flight is an upload in flight.
type flight struct {
	task    *task
	retry   bool
	encode  context.Context // of Body
	cancel  context.CancelFunc
	blocked taskList // tasks that wait for the route
}

// route identifies an upload in tor's events.
type route struct {
	address descriptor.Address
	hsdir   [20]byte
}

func (t *task) target() Slot { return t.edition.Slots[t.slot] }
func (t *task) route() route { return route{t.edition.Address, t.target().HSDir} }

// NewUploadQueue returns a queue, which Close ends.
func NewUploadQueue(cfg UploadConfig) *UploadQueue {
	cfg.InFlight = cmp.Or(max(cfg.InFlight, 0), 64)
	cfg.PerSecond = cmp.Or(max(cfg.PerSecond, 0), 50)
	cfg.Burst = cmp.Or(max(cfg.Burst, 0), 100)
	cfg.Patience = cmp.Or(cfg.Patience, time.Minute)
	q := &UploadQueue{
		cfg: cfg,
		backoff: backoff.Policy{
			Min: cmp.Or(cfg.RetryMin, 2*time.Second), Max: cmp.Or(cfg.RetryMax, 5*time.Minute), Random: cfg.Random,
		},
		began:    time.Now(),
		editions: make(map[descriptor.Address][]*edition),
		inFlight: make(map[route]*flight),
		tokens:   rate.NewLimiter(rate.Limit(cfg.PerSecond), cfg.Burst),
	}
	q.ctx, q.stop = context.WithCancel(context.Background())
	q.timer = time.AfterFunc(time.Hour, q.tick)
	return q
}

// Upload queues u in place of all pending uploads for its address and period, and
// returns at once. A replaced upload in flight finishes, unreported,
// before its route is used again. A slot that did not answer the edition before is
// tried at once, and its backoff continues from there. After Close, Upload does
// nothing.
func (q *UploadQueue) Upload(u Upload) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	u.Urgency = min(max(u.Urgency, 0), urgencies-1)
	e := &edition{Upload: u, tasks: make([]task, len(u.Slots)), queued: time.Since(q.began), left: len(u.Slots)}
	var old *edition
	for _, other := range q.editions[u.Address] {
		if other.Period == u.Period {
			old = other
		}
	}
	if old != nil {
		q.drop(old)
	}
	for i := range e.tasks {
		t := &e.tasks[i]
		t.edition, t.slot, t.failures = e, int32(i), old.failures(u.Slots[i])
		q.readyList(t).pushBack(t)
	}
	if e.left > 0 {
		q.pending += e.left
		q.editions[u.Address] = append(q.editions[u.Address], e)
	}
	q.dispatch()
}

// failures returns how often in a row the HSDir of a slot did not answer e.
func (e *edition) failures(s Slot) int32 {
	if e != nil {
		for i := range e.tasks {
			if e.Slots[i].HSDir == s.HSDir {
				return e.tasks[i].failures
			}
		}
	}
	return 0
}

// Cancel drops all pending uploads for the address. Published descriptors stay on
// the HSDirs.
func (q *UploadQueue) Cancel(address descriptor.Address) {
	q.cancel(address, func(*edition) bool { return true })
}

// CancelPeriod drops all pending uploads for the address and period.
func (q *UploadQueue) CancelPeriod(address descriptor.Address, p descriptor.Period) {
	q.cancel(address, func(e *edition) bool { return e.Period == p })
}

func (q *UploadQueue) cancel(address descriptor.Address, match func(*edition) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range append([]*edition(nil), q.editions[address]...) {
		if match(e) {
			q.drop(e)
		}
	}
}

// RetryNow retries all waiting uploads at once: the connection to tor, or tor's to the
// network, is back.
func (q *UploadQueue) RetryNow() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.waiting {
		t.place = 0
		q.readyList(t).pushBack(t)
	}
	q.waiting = nil
	q.dispatch()
}

// SetRate changes how many uploads are launched a second in the long run, above 0. The burst
// stays as it is.
func (q *UploadQueue) SetRate(perSecond float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tokens.SetLimit(rate.Limit(perSecond))
	q.dispatch()
}

// Pending returns how many slots are neither confirmed nor given up.
func (q *UploadQueue) Pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending
}

// UploadCounts counts the attempts of a queue, each by its result.
type UploadCounts struct {
	Confirmed uint64
	Rejected  uint64
	Failed    uint64 // were not answered, and are retried
}

// UploadLoad is what a queue has to do, in slots, and what it has done.
type UploadLoad struct {
	Pending  int // neither confirmed nor given up
	InFlight int // of these
	Waiting  int // of these, for another attempt after one that was not answered
	UploadCounts
}

// Load returns what there is to do.
func (q *UploadQueue) Load() UploadLoad {
	q.mu.Lock()
	defer q.mu.Unlock()
	return UploadLoad{q.pending, len(q.inFlight), len(q.waiting), q.results}
}

// Close drops all pending uploads, and returns when none is in flight any more.
func (q *UploadQueue) Close() {
	q.mu.Lock()
	q.closed = true
	for _, editions := range q.editions {
		for _, e := range editions {
			e.dropped = true
		}
	}
	clear(q.editions)
	q.pending, q.waiting, q.ready = 0, nil, [urgencies][2][attempts]taskList{}
	q.timer.Stop()
	q.mu.Unlock()
	q.stop()
	q.running.Wait()
}

// The methods below are called with q.mu held.

// readyList returns the list that t is in while it is ready.
func (q *UploadQueue) readyList(t *task) *taskList {
	reserve := 0
	if t.target().Reserve {
		reserve = 1
	}
	return &q.ready[t.edition.Urgency][reserve][min(t.failures, attempts-1)]
}

// drop removes an edition. Its uploads in flight finish, unless they still wait
// for Body.
func (q *UploadQueue) drop(e *edition) {
	e.dropped = true
	for i := range e.tasks {
		t := &e.tasks[i]
		switch {
		case t.list != nil:
			t.list.remove(t)
		case t.place > 0:
			heap.Remove(&q.waiting, int(t.place-1))
		default:
			if f := q.inFlight[t.route()]; f != nil && f.task == t {
				f.cancel()
			}
		}
	}
	q.pending -= e.left
	q.forget(e)
}

// done records that a task needs no more attempts.
func (q *UploadQueue) done(t *task) {
	q.pending--
	if t.edition.left--; t.edition.left == 0 {
		q.forget(t.edition)
	}
}

// forget removes an edition from its address, which has two or three.
func (q *UploadQueue) forget(e *edition) {
	var others []*edition
	for _, other := range q.editions[e.Address] {
		if other != e {
			others = append(others, other)
		}
	}
	if q.editions[e.Address] = others; others == nil {
		delete(q.editions, e.Address)
	}
}

// dispatch launches the uploads that may be launched, and sets the timer for those
// that may be later. It ends every change of the queue.
func (q *UploadQueue) dispatch() {
	const none = time.Duration(1<<63 - 1)
	now, wait := time.Now(), none
	for len(q.inFlight) < q.cfg.InFlight {
		t := q.next()
		if t == nil {
			break
		}
		if !q.tokens.AllowN(now, 1) {
			missing := 1 - q.tokens.TokensAt(now)
			wait = max(time.Millisecond, time.Duration(missing/float64(q.tokens.Limit())*float64(time.Second)))
			break
		}
		q.launch(t)
	}
	if len(q.waiting) > 0 {
		wait = min(wait, q.waiting[0].retryAt-now.Sub(q.began))
	}
	if wait == none {
		q.timer.Stop()
	} else {
		q.timer.Reset(wait)
	}
}

// next returns the ready task that goes first, nil if none may be launched. Tasks
// whose route is in use are blocked until it is free.
func (q *UploadQueue) next() *task {
	tried := attempts // how often a task may have been, plus 1
	if q.retrying >= max(1, q.cfg.InFlight/2) {
		tried = 1
	}
	for urgency := range q.ready {
		if urgency == int(UrgencyPointsDead) {
			if t := q.overdue(min(tried, 2)); t != nil {
				return t
			}
		}
		for reserve := range 2 {
			for n := range tried {
				if t := q.first(&q.ready[urgency][reserve][n]); t != nil {
					return t
				}
			}
		}
	}
	return nil
}

// renewalPatience is how long a renewal waits at most for uploads that are more urgent, and
// reservePatience that of a Reserve slot: a consensus that came after it was queued may have
// clients ask it.
const (
	renewalPatience = 10 * time.Minute
	reservePatience = 15 * time.Minute
)

// overdue returns the renewal that has waited for the longest, if that is too long, and it
// was tried less often than that: an HSDir that does not answer holds nobody up.
func (q *UploadQueue) overdue(tried int) *task {
	waited := time.Since(q.began)
	for reserve, patience := range [...]time.Duration{renewalPatience, reservePatience} {
		for n := range tried {
			if t := q.first(&q.ready[UrgencyRefresh][reserve][n]); t != nil && waited-t.edition.queued >= patience {
				return t
			}
		}
	}
	return nil
}

// first returns the first task of a list whose route is free. Those before it are blocked
// until theirs are.
func (q *UploadQueue) first(list *taskList) *task {
	for t := list.first; t != nil; t = list.first {
		f := q.inFlight[t.route()]
		if f == nil {
			return t
		}
		list.remove(t)
		f.blocked.pushBack(t)
	}
	return nil
}

// launch begins the upload of a ready task.
func (q *UploadQueue) launch(t *task) {
	t.list.remove(t)
	f := &flight{task: t, retry: t.failures > 0}
	f.encode, f.cancel = context.WithTimeout(q.ctx, q.cfg.Patience)
	q.inFlight[t.route()] = f
	if f.retry {
		q.retrying++
	}
	q.running.Go(func() { q.run(f) })
}

// tick makes retries ready when their backoff has passed.
func (q *UploadQueue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	now := time.Since(q.began)
	for len(q.waiting) > 0 && q.waiting[0].retryAt <= now {
		t := heap.Pop(&q.waiting).(*task)
		q.readyList(t).pushBack(t)
	}
	q.dispatch()
}

// run makes one attempt. It is called without q.mu.
func (q *UploadQueue) run(f *flight) {
	began := time.Now()
	result := UploadResult{Slot: f.task.target()}
	result.Unencoded, result.Err = q.attempt(f)
	result.Took = time.Since(began)
	if q.land(f, &result) {
		f.task.edition.Report(result)
	}
}

// attempt calls Body and uploads the bytes it returns. It reports whether the
// error is from Body.
func (q *UploadQueue) attempt(f *flight) (unencoded bool, err error) {
	e, slot := f.task.edition, f.task.target()
	failpoint.Reach(failpoint.Queued)
	body, err := e.Body(f.encode, slot)
	f.cancel()
	if err != nil {
		return true, err
	}
	q.mu.Lock()
	dropped := e.dropped
	q.mu.Unlock()
	if dropped {
		return true, ErrSuperseded
	}
	failpoint.Reach(failpoint.Post)
	ctx, cancel := context.WithTimeout(q.ctx, q.cfg.Patience)
	defer cancel()
	err = q.cfg.Poster.HSPost(ctx, e.Address.Label(), upperHex(slot.HSDir[:]), body)
	if err == nil && e.Release != nil {
		e.Release(body) // after an error, tor may still be reading it
	}
	return false, err
}

// land removes an upload that is no longer in flight, fills in the rest of its result,
// schedules a retry if needed, and reports whether the result is to be reported.
// It is called without q.mu.
func (q *UploadQueue) land(f *flight, result *UploadResult) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := f.task
	delete(q.inFlight, t.route())
	if f.retry {
		q.retrying--
	}
	if q.closed {
		return false
	}
	for b := f.blocked.last; b != nil; b = f.blocked.last {
		f.blocked.remove(b)
		q.readyList(b).pushFront(b)
	}
	defer q.dispatch()
	result.Rejected = !result.Unencoded && rejected(result.Err)
	q.results.add(result)
	if t.edition.dropped {
		return false
	}
	result.Attempts = int(t.failures) + 1
	if result.Unencoded && errors.Is(result.Err, ErrLater) {
		t.retryAt = time.Since(q.began) + q.backoff.Min
		heap.Push(&q.waiting, t)
		return false
	}
	if result.Err == nil || result.Rejected || result.Unencoded {
		if !result.Unencoded {
			t.failures = 0
		}
		q.done(t)
		return t.edition.Report != nil && !(result.Unencoded && errors.Is(result.Err, ErrSuperseded))
	}
	t.failures++
	result.RetryIn = q.backoff.Delay(int(t.failures))
	t.retryAt = time.Since(q.began) + result.RetryIn
	heap.Push(&q.waiting, t)
	return t.edition.Report != nil
}

// add counts the result of an attempt; one for which nothing was sent is none.
func (c *UploadCounts) add(r *UploadResult) {
	switch {
	case r.Unencoded:
	case r.Err == nil:
		c.Confirmed++
	case r.Rejected:
		c.Rejected++
	default:
		c.Failed++
	}
}
