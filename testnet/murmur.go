package testnet

import (
	"context"
	"strings"
	"time"
)

// The relays of a real network talk to each other all the time, and tor relies
// on it: when several circuits between two relays end at once, a relay tells
// the next one of the first of them only, and of the others whenever there is
// something else to send. On a network without traffic the introduction points
// of a service that was killed go on accepting introductions for minutes, and
// clients wait for an answer that nobody gives. So whenever services have
// reason to end circuits, an authority extends circuits over every pair of
// relays, a few times, as news has to pass several relays.
const (
	murmurHops  = 8                      // the longest circuits that tor extends
	murmurPause = 250 * time.Millisecond // in which they are built
	murmurTurns = 4                      // one for each relay that news has to pass
)

// murmur has every pair of relays tell each other something.
func (n *Network) murmur() {
	n.murmuring.Lock()
	defer n.murmuring.Unlock()
	var circuits []string
	p := n.authorities[0].current()
	if p == nil {
		return
	}
	for _, path := range murmurPaths(len(n.relays)) {
		hops := make([]string, len(path))
		for i, relay := range path {
			hops[i] = "$" + n.relays[relay].fingerprint
		}
		reply, err := p.command("EXTENDCIRCUIT 0 " + strings.Join(hops, ","))
		if id, ok := strings.CutPrefix(reply, "EXTENDED "); ok && err == nil {
			circuits = append(circuits, id)
		}
	}
	select {
	case <-n.stopped:
		return
	case <-time.After(murmurPause):
	}
	for _, id := range circuits {
		p.command("CLOSECIRCUIT " + id) // which may have failed before
	}
}

// passOn returns when relays have had the chance to tell each other of circuits
// that ended before. Those who wait while relays are made to talk share the next time.
func (n *Network) passOn() {
	arrived := time.Now()
	n.passing.Lock()
	defer n.passing.Unlock()
	if n.passed.After(arrived) {
		return
	}
	n.passed = time.Now()
	for range murmurTurns {
		select {
		case <-n.stopped:
			return
		default:
			n.murmur()
		}
	}
}

// followRotations has relays pass on that services close introduction points,
// as they do when they hear of a new shared random value, until the network is
// stopped. They hear of it within a voting interval.
func (n *Network) followRotations(ctx context.Context) {
	var next time.Time
	for {
		c, err := n.Consensus(ctx)
		wait := time.Second
		if err == nil {
			wait = max(time.Second, time.Until(c.FreshUntil))
			if changed := c.NextSharedRandom(); changed.After(next) {
				for until := time.Now().Add(c.VotingInterval()); !next.IsZero() && time.Now().Before(until) && ctx.Err() == nil; {
					n.murmur()
				}
				next = changed
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// murmurPaths are paths of at most murmurHops relays that together lead over
// every pair of them. With the relays in a circle, those that are step apart
// make up one or more rings, each of which is cut into paths.
func murmurPaths(relays int) [][]int {
	var paths [][]int
	for step := 1; step <= relays/2; step++ {
		ring := 1
		for ring*step%relays != 0 {
			ring++
		}
		pairs := min(murmurHops, ring) - 1 // on one path
		for first := range relays / ring {
			for done := 0; done < ring; done += pairs {
				path := make([]int, pairs+1)
				for i := range path {
					path[i] = (first + (done+i)*step) % relays
				}
				paths = append(paths, path)
			}
		}
	}
	return paths
}
