package tor

import (
	"context"
	"sync"

	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// Ended returns a channel that is closed when the circuit ends that earlier visits like
// v share, or the connection to tor, which tells. A circuit that our tor ends since nobody
// used it for a while says nothing about the service, and does not count. ctx ends the
// watching.
func (p *Pool) Ended(ctx context.Context, v health.Visit) (<-chan struct{}, error) {
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	// Without an address it is told of no stream.
	lost, err := p.through(v).client.Follow(ctx, control.Followed{User: p.socksUser(v)}, func(e control.Traffic) {
		if e.Stream == "" && e.Purpose == "HS_CLIENT_REND" && e.Status == "CLOSED" && e.Reason != "FINISHED" {
			end()
		}
	})
	if err != nil {
		return nil, err
	}
	go func() {
		select {
		case <-lost:
			end()
		case <-ended:
		case <-ctx.Done():
		}
	}()
	return ended, nil
}
