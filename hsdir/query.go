package hsdir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// lanes is how many replicas are asked side by side.
const lanes = 2

// errEnough is why the last HSDirs of a fetch are not waited for.
var errEnough = errors.New("other HSDirs have answered")

// query is one fetch under way.
type query struct {
	f      *Fetcher
	keys   descriptor.PeriodKeys
	client *descriptor.ClientKey
	floor  uint64
	now    time.Time
	label  string // of the address

	mu       sync.Mutex    // protects what follows
	answers  []QueryResult // of all HSDirs that may be asked
	replicas [][]int       // those that no lane has taken yet, as places in answers
	sequence []int         // places in answers, in the order of asking
	best     *descriptor.Descriptor
	raw      []byte
}

// prepare lists, replica by replica, whom to ask: those that clients ask too,
// in random order, then those that services upload to for the sake of churn.
func (q *query) prepare(ring *Ring) {
	fetch, store := ring.Fetch(q.keys.Blinded), ring.Store(q.keys.Blinded)
	listed := make(map[[20]byte]bool)
	places := make([][]int, len(fetch))
	add := func(replica int, list []ResponsibleHSDir) {
		for _, h := range list {
			if !listed[h.Fingerprint] {
				listed[h.Fingerprint] = true
				places[replica] = append(places[replica], len(q.answers))
				q.answers = append(q.answers, QueryResult{HSDir: h})
			}
		}
	}
	shuffle := q.f.cfg.Shuffle
	for i, list := range fetch {
		shuffle(len(list), func(x, y int) { list[x], list[y] = list[y], list[x] })
		add(i, list)
	}
	for i, list := range store {
		add(i, list)
	}
	q.replicas = slices.DeleteFunc(places, func(p []int) bool { return len(p) == 0 })
	shuffle(len(q.replicas), func(x, y int) { q.replicas[x], q.replicas[y] = q.replicas[y], q.replicas[x] })
}

// run asks until there is enough, and returns when nothing is under way.
func (q *query) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, q.f.cfg.Total)
	defer cancel()
	ctx, enough := context.WithCancelCause(ctx)
	defer enough(nil)
	n := min(lanes, len(q.replicas))
	answered := make(chan bool, n)
	for range n {
		go func() { answered <- q.lane(ctx) }()
	}
	for range n {
		if <-answered {
			// The other replica gets a little longer.
			timer := time.AfterFunc(q.f.cfg.SecondOpinion, func() { enough(errEnough) })
			defer timer.Stop()
		}
	}
}

// lane asks HSDirs, one after the other and replica after replica, until one
// gives a good answer.
func (q *query) lane(ctx context.Context) bool {
	for replica := q.nextReplica(); replica != nil; replica = q.nextReplica() {
		for _, place := range replica {
			if q.ask(ctx, place) {
				return true
			}
			if ctx.Err() != nil {
				return false
			}
		}
	}
	return false
}

func (q *query) nextReplica() []int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.replicas) == 0 {
		return nil
	}
	next := q.replicas[0]
	q.replicas = q.replicas[1:]
	return next
}

// ask asks one HSDir and reports whether the answer is good.
func (q *query) ask(ctx context.Context, place int) bool {
	if q.f.places.Acquire(ctx, 1) != nil {
		return false
	}
	defer q.f.places.Release(1)
	q.mu.Lock()
	q.sequence = append(q.sequence, place)
	asked := q.answers[place]
	q.mu.Unlock()

	began := time.Now()
	patience, cancel := context.WithTimeout(ctx, q.f.cfg.Patience)
	defer cancel()
	raw, err := q.f.cfg.Getter.HSFetch(patience, q.label, asked.HSDir.Hex())
	asked.Took = time.Since(began)
	var d *descriptor.Descriptor
	if err == nil {
		d, asked.Outcome, asked.Err = q.judge(raw)
	} else if asked.Outcome, asked.Err = outcomeOf(err), err; context.Cause(ctx) == errEnough {
		asked.Outcome = Abandoned
	}
	if d != nil {
		asked.Revision = d.RevisionCounter
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers[place] = asked
	if asked.Outcome != Answered {
		return false
	}
	if q.best == nil || d.RevisionCounter > q.best.RevisionCounter {
		q.best, q.raw = d, raw
	}
	return true
}

// judge decodes and verifies what an HSDir sent.
func (q *query) judge(raw []byte) (*descriptor.Descriptor, Outcome, error) {
	d, err := q.f.cfg.Decoder.Decode(raw, q.keys, q.client, q.now)
	switch {
	case errors.Is(err, descriptor.ErrClientKey):
		return nil, NeedsClientKey, err
	case err != nil:
		return nil, Invalid, err
	case d.RevisionCounter < q.floor:
		return d, Replayed, fmt.Errorf("revision counter %d, but %d was seen before", d.RevisionCounter, q.floor)
	default:
		return d, Answered, nil
	}
}

// inOrder returns the answers in the order of asking, and then those who were
// not asked.
func (q *query) inOrder() []QueryResult {
	list := make([]QueryResult, 0, len(q.answers))
	for _, place := range q.sequence {
		list = append(list, q.answers[place])
	}
	for i, a := range q.answers {
		if !slices.Contains(q.sequence, i) {
			list = append(list, a)
		}
	}
	return list
}
