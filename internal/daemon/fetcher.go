package daemon

import (
	"context"
	"errors"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/balance"
)

// fetcher answers the services' queries with an hsdir.Fetcher.
type fetcher struct{ *hsdir.Fetcher }

func newFetcher(getter hsdir.Getter) fetcher {
	return fetcher{hsdir.NewFetcher(hsdir.FetchConfig{Getter: getter})}
}

// Fetch sorts the outcome of a fetch by what it says about the instance.
func (f fetcher) Fetch(ctx context.Context, q balance.Query) balance.Answer {
	got, err := f.Fetcher.Fetch(ctx, q.Consensus, q.Keys, q.Client, q.Floor, q.Now)
	answer := balance.Answer{Keys: q.Keys, Descriptor: got.Descriptor, Raw: got.Raw, Err: err}
	switch {
	case err == nil:
		answer.Finding = balance.Found
	case errors.Is(err, hsdir.ErrNotFound):
		answer.Finding = balance.Unknown
	case errors.Is(err, hsdir.ErrGarbage), errors.Is(err, descriptor.ErrClientKey):
		answer.Finding = balance.Garbage
	default:
		answer.Finding = balance.Unclear
	}
	return answer
}
