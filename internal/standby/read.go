package standby

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// reading is the result of asking HSDirs for a descriptor.
type reading struct {
	full  bool
	votes map[int]*votes // by replica
	best  *descriptor.Descriptor
	raw   []byte
}

// votes counts what the asked HSDirs of a replica have.
type votes struct{ asked, has, lacks int }

// read asks HSDirs side by side: all that clients ask, or one of each replica.
func read(ctx context.Context, f Fetcher, c *hsdir.Consensus, keys descriptor.PeriodKeys, full bool, now time.Time) reading {
	r := reading{full: full, votes: make(map[int]*votes)}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, replica := range c.Current().Fetch(keys.Blinded) {
		if len(replica) == 0 {
			continue // there are few relays
		}
		if !full {
			n := rand.IntN(len(replica))
			replica = replica[n : n+1]
		}
		of := &votes{asked: len(replica)}
		r.votes[replica[0].Replica] = of
		for _, h := range replica {
			wait.Go(func() {
				got, err := f.AskOuter(ctx, c, keys, h.Fingerprint, now)
				mu.Lock()
				defer mu.Unlock()
				r.count(of, got, err)
			})
		}
	}
	wait.Wait()
	return r
}

// count takes in one answer. What is not the service's descriptor is as good as none.
func (r *reading) count(of *votes, got hsdir.FetchResult, err error) {
	switch d := got.Descriptor; {
	case d != nil:
		of.has++
		if r.best == nil || d.RevisionCounter > r.best.RevisionCounter {
			r.best, r.raw = d, got.Raw
		}
	case errors.Is(err, hsdir.ErrNotFound), errors.Is(err, hsdir.ErrInvalid):
		of.lacks++
	}
}

// result is what the reading shows.
func (r *reading) result(at time.Time) Read {
	is := Read{At: at, Full: r.full, Found: r.best != nil, Missing: r.best == nil && len(r.votes) > 0, Most: len(r.votes) > 0}
	for _, v := range r.votes {
		is.Missing = is.Missing && 2*v.lacks > v.asked
		is.Most = is.Most && 2*(v.has+v.lacks) > v.asked
	}
	return is
}
