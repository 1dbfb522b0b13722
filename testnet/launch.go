package testnet

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// launch starts everything in the order that is quickest: authorities, so that
// relays find them at once; relays; clients while the votes are given. Each
// step waits for what the one before has brought about, not for time to pass.
func (n *Network) launch(ctx context.Context) error {
	if err := n.makeNodes(); err != nil {
		return err
	}
	stopProgress := n.showProgress(ctx)
	defer stopProgress()
	if err := n.makeKeys(ctx); err != nil {
		return err
	}
	farAway := n.votingOffset(time.Now().Add(-time.Second))
	if err := n.startAll(ctx, len(n.authorities), func(i int) (*node, *torrc) {
		a := n.authorities[i]
		return a.node, n.authorityConfig(a, farAway)
	}); err != nil {
		return err
	}
	if err := n.startAll(ctx, len(n.relays), func(i int) (*node, *torrc) {
		r := n.relays[i]
		return r.node, n.relayConfig(r)
	}); err != nil {
		return err
	}
	clients := make([]*Client, len(n.config.Clients))
	for i, name := range n.config.Clients {
		var err error
		if clients[i], err = n.newClient(name); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.Go(func() error { return n.firstConsensus(ctx) })
	group.Go(func() error {
		return n.startAll(ctx, len(clients), func(i int) (*node, *torrc) {
			return clients[i].node, clients[i].torrc()
		})
	})
	if err := group.Wait(); err != nil {
		return err
	}
	// Whoever asked for a consensus in vain waits longer and longer; now that
	// there is one, they need not.
	for _, r := range n.relays {
		r.reload()
	}
	for _, c := range clients {
		c.reload()
	}
	for _, c := range clients {
		if err := c.ready(ctx); err != nil {
			return err
		}
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.background.Go(func() {
		<-n.stopped
		cancel()
	})
	n.background.Go(func() { n.followRotations(background) })
	return nil
}

// startAll writes the configurations of count nodes and starts them, a few at
// a time.
func (n *Network) startAll(ctx context.Context, count int, what func(int) (*node, *torrc)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.NumCPU())
	for i := range count {
		d, config := what(i)
		group.Go(func() error {
			if err := config.write(d.dir); err != nil {
				return err
			}
			return d.start(ctx)
		})
	}
	return group.Wait()
}

// firstConsensus has the authorities vote as soon as they know every relay,
// and waits for the consensus.
func (n *Network) firstConsensus(ctx context.Context) error {
	if err := n.until(ctx, 50*time.Millisecond, func() (bool, error) { return n.allDescribed(ctx), nil }); err != nil {
		return fmt.Errorf("waiting for the relays' descriptors: %w", err)
	}
	// A timetable that has led to a consensus already, on a busy machine, is
	// not moved: that would make one voting interval shorter than others.
	if _, err := n.Consensus(ctx); err != nil {
		const settle = time.Second // for the authorities to read their torrc again
		offset := n.votingOffset(time.Now().Add(2*n.votingDelay() + settle))
		for _, a := range n.authorities {
			if err := n.authorityConfig(a, offset).write(a.dir); err != nil {
				return err
			}
			a.reload()
		}
	}
	want := len(n.authorities) + len(n.relays)
	if err := n.until(ctx, 100*time.Millisecond, func() (bool, error) {
		c, err := n.Consensus(ctx)
		return err == nil && c.Relays >= want, nil
	}); err != nil {
		return fmt.Errorf("waiting for a consensus of %d relays: %w", want, err)
	}
	return nil
}

// votingOffset is how far the timetable of votes has to be moved for a
// consensus to be due then.
func (n *Network) votingOffset(due time.Time) time.Duration {
	return time.Duration(due.Unix()%int64(n.config.VotingInterval/time.Second)) * time.Second
}

// votingDelay is how long votes, and then signatures, may take to arrive.
func (n *Network) votingDelay() time.Duration {
	return max(minDelay, min(n.config.VotingInterval/5, maxDelay)).Truncate(time.Second)
}

// allDescribed says whether every authority has every router's descriptor.
func (n *Network) allDescribed(ctx context.Context) bool {
	for _, a := range n.authorities {
		all, err := fetchDirectory(ctx, a.dirPort, "/tor/server/all")
		if err != nil || bytes.Count(all, []byte("\nrouter-signature\n")) < len(n.authorities)+len(n.relays) {
			return false
		}
	}
	return true
}
