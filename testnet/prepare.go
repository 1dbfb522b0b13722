package testnet

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// makeNodes chooses ports, and makes directories.
func (n *Network) makeNodes() error {
	for i := range n.config.Authorities + n.config.Relays {
		orPort, err := n.ports.reserve()
		if err != nil {
			return err
		}
		if i >= n.config.Authorities {
			d, err := n.newNode(fmt.Sprintf("relay%02d", i-n.config.Authorities+1))
			if err != nil {
				return err
			}
			n.relays = append(n.relays, &relay{node: d, orPort: orPort})
			continue
		}
		dirPort, err := n.ports.reserve()
		if err != nil {
			return err
		}
		d, err := n.newNode(fmt.Sprintf("auth%d", i+1))
		if err != nil {
			return err
		}
		n.authorities = append(n.authorities, &authority{node: d, orPort: orPort, dirPort: dirPort})
	}
	return nil
}

// makeKeys makes the keys that others are told of before their owner runs.
func (n *Network) makeKeys(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, a := range n.authorities {
		group.Go(func() (err error) {
			a.v3ident, err = makeVotingKeys(ctx, n.gencert, a.dir, a.dirPort)
			return err
		})
		group.Go(func() (err error) {
			a.fingerprint, err = makeRelayKey(a.dir)
			return err
		})
	}
	for _, r := range n.relays {
		group.Go(func() (err error) {
			r.fingerprint, err = makeRelayKey(r.dir)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all []string
	for _, a := range n.authorities {
		all = append(all, a.fingerprint)
	}
	for _, r := range n.relays {
		all = append(all, r.fingerprint)
	}
	for _, a := range n.authorities {
		if err := writeStability(a.dir, time.Now(), all); err != nil {
			return err
		}
	}
	return writeBandwidths(n.bandwidths(), time.Now(), all)
}
