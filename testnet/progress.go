package testnet

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress is how far a network has come while it starts.
type Progress struct {
	Elapsed   time.Duration
	Running   int  // tors that have been started
	Consensus bool // whether there is one yet
	Relays    int  // in the consensus
	Wanted    int  // relays, authorities included, that shall be in it
	Clients   int  // mean bootstrap of the clients, in percent
}

// String is the state as one short line.
func (p Progress) String() string {
	consensus := "no consensus yet"
	if p.Consensus {
		consensus = fmt.Sprintf("consensus with %d of %d relays", p.Relays, p.Wanted)
	}
	return fmt.Sprintf("%3.0f s  %d tors started, %s, clients at %d %%", p.Elapsed.Seconds(), p.Running, consensus, p.Clients)
}

// ProgressTo writes each state over the one before, for terminals.
func ProgressTo(w io.Writer) func(Progress) {
	return func(p Progress) { fmt.Fprintf(w, "\r\x1b[K%s", p) }
}

// showProgress reports until the function that it returns is called.
func (n *Network) showProgress(ctx context.Context) func() {
	if n.config.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				n.config.Progress(n.progress(ctx))
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		n.config.Progress(n.progress(context.WithoutCancel(ctx)))
	}
}

// progress looks at the network as it is now.
func (n *Network) progress(ctx context.Context) Progress {
	p := Progress{
		Elapsed: time.Since(n.began),
		Running: len(n.PIDs()),
		Wanted:  n.config.Authorities + n.config.Relays,
	}
	if c, err := n.Consensus(ctx); err == nil {
		p.Consensus, p.Relays = true, c.Relays
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.clients {
		p.Clients += c.bootstrapped()
	}
	if len(n.clients) > 0 {
		p.Clients /= len(n.clients)
	}
	return p
}
