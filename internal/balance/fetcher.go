package balance

import (
	"context"
	"errors"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// fetcher answers queries with an hsdir.Fetcher.
type fetcher struct{ *hsdir.Fetcher }

// NewFetcher returns a Fetcher that sorts what an hsdir.Fetcher brings.
func NewFetcher(f *hsdir.Fetcher) Fetcher { return fetcher{f} }

// Fetch sorts the outcome of a fetch by what it says about the instance.
func (f fetcher) Fetch(ctx context.Context, q Query) Answer {
	got, err := f.Fetcher.Fetch(ctx, q.Consensus, q.Keys, q.Client, q.Floor, q.Now)
	answer := Answer{Keys: q.Keys, Descriptor: got.Descriptor, Raw: got.Raw, Err: err}
	switch {
	case err == nil:
		answer.Finding = Found
	case errors.Is(err, hsdir.ErrNotFound):
		answer.Finding = Unknown
	case errors.Is(err, hsdir.ErrInvalid), errors.Is(err, descriptor.ErrClientKey):
		answer.Finding = Invalid
	default:
		answer.Finding = Unreachable
	}
	return answer
}
