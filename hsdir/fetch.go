package hsdir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	Getter Getter

	InFlight int           // HSDirs queried at a time, over all fetches; 16, 2 at least
	Patience time.Duration // for one HSDir, before the next is queried; 14 s
	// Total is the timeout of one fetch, all its HSDirs together, from when its turn
	// comes; 60 s: four of a replica.
	Total time.Duration
	// SecondOpinion is how long, after a valid answer, to wait for the other
	// replica; 5 s.
	SecondOpinion time.Duration
	// Shuffle puts the HSDirs of a replica in a random order, as a client does;
	// rand.Shuffle.
	Shuffle func(n int, swap func(i, j int))
}

// Fetcher fetches descriptors from HSDirs. It is safe for concurrent use.
type Fetcher struct {
	cfg    FetchConfig
	places *semaphore.Weighted // one for each lane

	mu      sync.Mutex
	decoder *descriptor.Decoder // for the size limit of the latest consensus
}

// NewFetcher returns a Fetcher.
func NewFetcher(cfg FetchConfig) *Fetcher {
	cfg.InFlight = max(cmp.Or(max(cfg.InFlight, 0), 16), lanes)
	cfg.Patience = cmp.Or(cfg.Patience, 14*time.Second)
	cfg.Total = cmp.Or(cfg.Total, time.Minute)
	cfg.SecondOpinion = cmp.Or(cfg.SecondOpinion, 5*time.Second)
	if cfg.Shuffle == nil {
		cfg.Shuffle = rand.Shuffle
	}
	return &Fetcher{cfg: cfg, places: semaphore.NewWeighted(int64(cfg.InFlight))}
}

// Outcome is the result of asking one HSDir for a descriptor.
type Outcome uint8

// The outcomes.
const (
	NotAsked       Outcome = iota // others had answered before its turn came
	Answered                      // a valid descriptor
	NotFound                      // the HSDir does not have it
	NoAnswer                      // no answer in time, or it could not be reached
	Refused                       // it answered, but refused
	Invalid                       // it returned something that is not the service's descriptor
	Replayed                      // an older descriptor than one seen before
	NeedsClientKey                // a descriptor that our client key, or none, does not open
	Abandoned                     // others answered while it was being asked
)

var outcomeNames = [...]string{"not asked", "answered", "not found", "no answer", "refused", "invalid", "replayed", "needs client key", "abandoned"}

// String returns the outcome in words.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// QueryResult is one HSDir and its answer.
type QueryResult struct {
	HSDir    ResponsibleHSDir
	Outcome  Outcome
	Revision uint64 // of the descriptor, if Answered or Replayed
	Err      error  // nil if Answered
	Took     time.Duration
}

// FetchResult is the result of a fetch: a descriptor if one was found, and in any
// case each HSDir's answer, in the order of asking, those not asked last.
type FetchResult struct {
	Descriptor *descriptor.Descriptor
	Raw        []byte // Descriptor as received
	HSDirs     []QueryResult
}

// The errors of a fetch, for errors.Is. A descriptor that could
// not be opened is descriptor.ErrClientKey.
var (
	// ErrNotFound says that more than half of the HSDirs asked of each replica do
	// not have the descriptor: the service is offline, or has not published yet.
	ErrNotFound = errors.New("no HSDir has the descriptor")
	// ErrNoAnswer says that too few HSDirs answered for any other verdict.
	ErrNoAnswer = errors.New("not enough HSDirs answered to tell whether the descriptor exists")
	// ErrInvalid says that more than half of the HSDirs asked of each replica
	// returned an invalid descriptor or none.
	ErrInvalid = errors.New("HSDirs returned only invalid descriptors")
	// ErrReplayed says that HSDirs sent only descriptors that are older than one
	// seen before. It is also an ErrInvalid.
	ErrReplayed = fmt.Errorf("%w: descriptors older than one seen before", ErrInvalid)
)

// Fetch asks HSDirs of two replicas, side by side, for the descriptor of keys,
// which must be for the period that clients fetch, and returns the one with the
// highest revision counter that is valid at now. client is nil, or opens the
// descriptor of a service with client authorization. A revision counter below
// floor makes a descriptor a replay.
//
// If an HSDir does not answer, has nothing or lies, the next one of its replica is
// asked. The fetch ends when both replicas returned a valid answer, when one did
// and the other takes too long, when all HSDirs were asked, or when Total has
// passed. Total begins when the fetch has its places; ctx also ends the wait for them,
// which lasts minutes when there are a thousand fetches at once, and may outlast
// the period. The result has each HSDir's answer, whether or not there is an
// error, which is one of ErrNotFound, ErrNoAnswer, ErrInvalid, ErrReplayed,
// ErrNoHSDirs and descriptor.ErrClientKey.
func (f *Fetcher) Fetch(ctx context.Context, c *Consensus, keys descriptor.PeriodKeys, client *descriptor.ClientKey, floor uint64, now time.Time) (FetchResult, error) {
	return f.fetch(ctx, c, &query{
		keys: keys,
		decode: func(d *descriptor.Decoder, raw []byte) (*descriptor.Descriptor, error) {
			return d.Decode(raw, keys, client, now)
		},
		floor: floor,
	})
}

// ErrNotResponsible says that the ring has other HSDirs for the descriptor.
var ErrNotResponsible = errors.New("the HSDir is not responsible for the descriptor")

// AskOuter asks one of the HSDirs of the descriptor of keys, which must be for the
// period that clients fetch, and verifies the outer layer alone, as
// Decoder.DecodeOuter does. It returns a descriptor whatever its revision counter. The
// errors are those of Fetch, on the word of the one HSDir, and ErrNotResponsible.
func (f *Fetcher) AskOuter(ctx context.Context, c *Consensus, keys descriptor.PeriodKeys, hsdir [20]byte, now time.Time) (FetchResult, error) {
	return f.fetch(ctx, c, &query{
		keys: keys,
		decode: func(d *descriptor.Decoder, raw []byte) (*descriptor.Descriptor, error) {
			return d.DecodeOuter(raw, keys, now)
		},
		only: &hsdir,
	})
}

// decoding verifies an HSDir's answer.
type decoding func(d *descriptor.Decoder, raw []byte) (*descriptor.Descriptor, error)

func (f *Fetcher) fetch(ctx context.Context, c *Consensus, q *query) (FetchResult, error) {
	ring, keys := c.Current(), q.keys
	fail := func(err error) (FetchResult, error) {
		return FetchResult{}, fmt.Errorf("fetching the descriptor of %s: %w", keys.Address.Short(), err)
	}
	if keys.Period != ring.Period {
		// tor would fetch the current period's descriptor, whatever we ask for.
		return fail(fmt.Errorf("keys for period %v, but clients fetch for %v", keys.Period, ring.Period))
	}
	if ring.Len() == 0 {
		return fail(fmt.Errorf("%w (%v)", ErrNoHSDirs, c.Coverage))
	}
	q.f, q.decoder, q.label = f, f.decoderFor(ring.MaxDescriptorSize()), keys.Address.Label()
	if q.prepare(ring); len(q.answers) == 0 {
		return fail(ErrNotResponsible)
	}
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

// decoderFor returns the decoder that takes descriptors below size bytes. Another
// consensus may have another limit, but rarely does.
func (f *Fetcher) decoderFor(size int) *descriptor.Decoder {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.decoder == nil || f.decoder.MaxSize != size {
		f.decoder = &descriptor.Decoder{MaxSize: size}
	}
	return f.decoder
}

// lanes is how many replicas are asked side by side.
const lanes = 2

// errEnough is why the last HSDirs of a fetch are cancelled.
var errEnough = errors.New("other HSDirs have answered")

// query is one fetch.
type query struct {
	f       *Fetcher
	decoder *descriptor.Decoder
	decode  decoding
	keys    descriptor.PeriodKeys
	floor   uint64
	only    *[20]byte // the one HSDir to ask; nil: all that are responsible
	label   string    // of the address

	mu       sync.Mutex    // protects the fields below
	answers  []QueryResult // of all HSDirs that may be asked
	replicas [][]int       // those that no lane has taken yet, as places in answers
	sequence []int         // places in answers, in the order of asking
	best     *descriptor.Descriptor
	raw      []byte
}

// prepare lists the HSDirs to ask, by replica: those that clients ask too,
// in random order, then those that services also upload to because relays come and go.
func (q *query) prepare(ring *Ring) {
	fetch, store := ring.Fetch(q.keys.Blinded), ring.Store(q.keys.Blinded)
	listed := make(map[[20]byte]bool)
	places := make([][]int, len(fetch))
	add := func(replica int, list []ResponsibleHSDir) {
		for _, h := range list {
			if !listed[h.Fingerprint] && (q.only == nil || *q.only == h.Fingerprint) {
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

// run waits for a place for each lane, queries until there is enough, and returns when
// nothing is in flight. Timeouts begin when it has its places.
func (q *query) run(ctx context.Context) {
	n := min(lanes, len(q.replicas))
	if q.f.places.Acquire(ctx, int64(n)) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, q.f.cfg.Total)
	defer cancel()
	ctx, enough := context.WithCancelCause(ctx)
	defer enough(nil)
	answered := make(chan bool, n)
	for range n {
		go func() {
			defer q.f.places.Release(1)
			answered <- q.lane(ctx)
		}()
	}
	for range n {
		if <-answered {
			// The other replica gets a little more time.
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

// judge decodes and verifies an HSDir's answer.
func (q *query) judge(raw []byte) (*descriptor.Descriptor, Outcome, error) {
	d, err := q.decode(q.decoder, raw)
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

// inOrder returns the answers in the order of asking, and then the HSDirs that were
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

// outcomeOf maps an error of HSFetch to an outcome.
func outcomeOf(err error) Outcome {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return NoAnswer
	}
	// tor's REASON, if it reported that the fetch failed (control-spec, HS_DESC).
	var failed interface{ Reason() string }
	if !errors.As(err, &failed) {
		return NoAnswer
	}
	switch failed.Reason() {
	case "NOT_FOUND":
		return NotFound
	case "BAD_DESC": // tor parses a descriptor before it hands it on
		return Invalid
	case "":
		return NoAnswer
	default:
		return Refused
	}
}

// verdict is the error of a fetch that found no descriptor. One that cannot be
// opened, or is old, counts by itself, as the service signed it. About
// anything else an HSDir may lie: a majority of each replica has to say it, since those
// of one may belong to one operator, and those that do not answer may have it.
func (f *FetchResult) verdict() error {
	var counts [len(outcomeNames)]int
	for _, r := range f.HSDirs {
		counts[r.Outcome]++
	}
	var cause error
	switch {
	case counts[NeedsClientKey] > 0:
		cause = f.firstError(NeedsClientKey)
	case counts[Replayed] > 0:
		cause = ErrReplayed
	case f.mostSay(NotFound):
		cause = ErrNotFound
	case f.mostSay(NotFound, Invalid):
		cause = fmt.Errorf("%w: %w", ErrInvalid, f.firstError(Invalid))
	default:
		cause = ErrNoAnswer
	}
	return fmt.Errorf("%w (%s)", cause, summary(counts))
}

// mostSay reports whether asking more than half of the HSDirs asked of each replica
// had one of the outcomes.
func (f *FetchResult) mostSay(outcomes ...Outcome) bool {
	margin := map[int]int{} // by replica
	for _, r := range f.HSDirs {
		switch {
		case slices.Contains(outcomes, r.Outcome):
			margin[r.HSDir.Replica]++
		case r.Outcome != NotAsked:
			margin[r.HSDir.Replica]--
		default:
			margin[r.HSDir.Replica] += 0 // none of its HSDirs may have been asked
		}
	}
	for _, m := range margin {
		if m <= 0 {
			return false
		}
	}
	return true
}

func (f *FetchResult) firstError(o Outcome) error {
	for _, a := range f.HSDirs {
		if a.Outcome == o && a.Err != nil {
			return a.Err
		}
	}
	return errors.New(o.String())
}

// summary writes "HSDirs: 2 not found, 1 no answer".
func summary(counts [len(outcomeNames)]int) string {
	var parts []string
	for o, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, Outcome(o)))
		}
	}
	return "HSDirs: " + strings.Join(parts, ", ")
}
