package testnet

import (
	"context"
	"sync"
	"time"
)

// broadcast wakes everyone who waits for a change of the network.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next notify closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// notify wakes those who wait.
func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// until waits for a condition, which it looks at after every event of any tor
// and, for what no event tells, every poll. A tor that has ended by itself
// ends the wait.
func (n *Network) until(ctx context.Context, poll time.Duration, condition func() (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		changed := n.changed.wait()
		if ok, err := condition(); ok || err != nil {
			return err
		}
		if err := n.crashed(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.stopped:
			return ErrStopped
		case <-changed:
		case <-ticker.C:
		}
	}
}
