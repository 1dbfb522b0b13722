package hsdir

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Outcome is what asking one HSDir for a descriptor came to.
type Outcome uint8

// What can come of asking an HSDir.
const (
	NotAsked       Outcome = iota // others had answered before its turn came
	Answered                      // a valid descriptor
	NotFound                      // it has none
	NoAnswer                      // nothing came in time, or it could not be reached
	Refused                       // it answered, and would not say
	Invalid                       // what it sent is not the service's descriptor
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

// MarshalText writes what String returns.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// QueryResult is one HSDir and what it said.
type QueryResult struct {
	HSDir    ResponsibleHSDir
	Outcome  Outcome
	Revision uint64 // of the descriptor, if Answered or Replayed
	Err      error  // nil if Answered
	Took     time.Duration
}

// FetchResult is what a fetch brought: a descriptor if one was found, and in any
// case what each HSDir said, in the order of asking, those not asked last.
type FetchResult struct {
	Descriptor *descriptor.Descriptor
	Raw        []byte // Descriptor as it came
	HSDirs     []QueryResult
}

// The ways in which a fetch can fail, for errors.Is. That the descriptor could
// not be opened is descriptor.ErrClientKey.
var (
	// ErrNotFound says that HSDirs of at least two replicas were asked, and none
	// has the descriptor: the service is offline, or has not published yet.
	ErrNotFound = errors.New("no HSDir has the descriptor")
	// ErrNoAnswer says that not enough HSDirs answered to tell.
	ErrNoAnswer = errors.New("not enough HSDirs answered to tell whether the descriptor exists")
	// ErrInvalid says that HSDirs returned invalid descriptors, and nothing else.
	ErrInvalid = errors.New("HSDirs returned only invalid descriptors")
	// ErrReplayed says that HSDirs sent only descriptors that are older than one
	// seen before. It is also an ErrInvalid.
	ErrReplayed = fmt.Errorf("%w: descriptors older than one seen before", ErrInvalid)
)

// outcomeOf tells what an error of HSFetch says about the HSDir.
func outcomeOf(err error) Outcome {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return NoAnswer
	}
	// tor's word, where it reported that the fetch failed (control-spec, HS_DESC).
	var failed interface{ Reason() string }
	if !errors.As(err, &failed) {
		return NoAnswer
	}
	switch failed.Reason() {
	case "NOT_FOUND":
		return NotFound
	case "BAD_DESC": // tor looks itself before it hands a descriptor on
		return Invalid
	case "":
		return NoAnswer
	default:
		return Refused
	}
}

// verdict is the error of a fetch that brought no descriptor.
func (f *FetchResult) verdict() error {
	var counts [len(outcomeNames)]int
	empty := make(map[int]bool)
	replicas := make(map[int]bool)
	for _, a := range f.HSDirs {
		counts[a.Outcome]++
		replicas[a.HSDir.Replica] = true
		if a.Outcome == NotFound {
			empty[a.HSDir.Replica] = true
		}
	}
	var cause error
	switch {
	case counts[NeedsClientKey] > 0:
		cause = f.firstError(NeedsClientKey)
	case counts[Replayed] > 0:
		cause = ErrReplayed
	// The word of HSDirs of one replica alone, which may be a single operator's,
	// does not make a service unknown.
	case len(empty) >= min(2, len(replicas)) && len(empty) > 0:
		cause = ErrNotFound
	case counts[Invalid] > 0 && counts[NotFound] == 0:
		cause = fmt.Errorf("%w: %w", ErrInvalid, f.firstError(Invalid))
	default:
		cause = ErrNoAnswer
	}
	return fmt.Errorf("%w (%s)", cause, summary(counts))
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
