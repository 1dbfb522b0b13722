package sim

import (
	"slices"
	"time"
)

const (
	keptVotes  = 4 // consensuses that a tor may still be given
	validVotes = 3 // voting intervals for which a consensus is valid
)

// voting is the authorities' routine at the start of every interval.
func (n *Network) voting(now time.Time) {
	interval := n.cfg.VotingInterval
	at := time.Unix(now.Unix()/int64(interval/time.Second)*int64(interval/time.Second), 0).UTC()
	if !n.paused {
		n.replaceRelays()
		n.vote(at)
	}
	if at.Unix()%int64(n.cfg.run()/time.Second) == 0 {
		n.forget(now)
	}
	n.agenda.plan(at.Add(interval), n.voting)
}

// vote makes the consensus that is valid after at, from the present relays.
func (n *Network) vote(at time.Time) {
	interval := n.cfg.VotingInterval
	c := &Consensus{
		ValidAfter: at,
		FreshUntil: at.Add(interval),
		ValidUntil: at.Add(validVotes * interval),
		Relays:     slices.Clone(n.relays),
		cfg:        &n.cfg,
		byID:       make(map[[20]byte]*Relay, len(n.relays)),
		rings:      make(map[ringKey]*ring),
	}
	for _, r := range c.Relays {
		c.byID[r.fingerprint] = r
	}
	if !n.noRandom {
		start := c.RunStart()
		c.SharedRandomCurrent = n.sharedRandom(start)
		c.SharedRandomPrevious = n.sharedRandom(start.Add(-n.cfg.run()))
	}
	n.votes = append(n.votes, c)
	if len(n.votes) > keptVotes {
		n.votes = slices.Delete(n.votes, 0, len(n.votes)-keptVotes)
	}
}

// sharedRandom is the value that appeared when a run began.
func (n *Network) sharedRandom(start time.Time) *[32]byte {
	value := n.cfg.derive("shared random", timeBytes(start))
	return &value
}

// replaceRelays has as many relays leave as Config.Churn wants at each vote,
// on average, and as many join.
func (n *Network) replaceRelays() {
	share := n.cfg.Churn / runIntervals
	left := 0
	for _, r := range n.relays {
		if share > 0 && n.churn.Float64() < share {
			r.leave()
			left++
		}
	}
	n.regroup(left)
}

// regroup drops the relays that left and has others join.
func (n *Network) regroup(joining int) {
	n.relays = slices.DeleteFunc(n.relays, func(r *Relay) bool { return r.gone })
	for range joining {
		n.addRelay()
	}
	n.sortRelays()
}

// Remove has the relay leave the network at once and for good: it answers
// nothing any more, the introduction points on it are dead, and the next
// consensus does not list it. No other relay takes its place.
func (r *Relay) Remove() {
	r.net.lock()
	defer r.net.mu.Unlock()
	if !r.gone {
		r.leave()
		r.net.regroup(0)
	}
}

// AddRelays has count new relays join; the next consensus lists them.
func (n *Network) AddRelays(count int) {
	n.lock()
	defer n.mu.Unlock()
	n.regroup(count)
}

func (r *Relay) leave() {
	r.gone = true
	for _, i := range r.net.instances {
		i.lostRelay(r)
	}
}

// PauseVoting has the authorities make no new consensus, while set: what
// everybody has goes stale. When voting goes on, it does so at the next
// voting interval.
func (n *Network) PauseVoting(paused bool) {
	n.lock()
	defer n.mu.Unlock()
	n.paused = paused
}

// WithholdSharedRandom has the authorities fail to agree on shared random
// values, while set: consensuses have none, and everybody computes with the
// disaster value of the time period.
func (n *Network) WithholdSharedRandom(withheld bool) {
	n.lock()
	defer n.mu.Unlock()
	n.noRandom = withheld
}

// forget drops what nobody can ask for any more.
func (n *Network) forget(now time.Time) {
	for _, r := range n.everyone {
		for blinded := range r.store {
			r.lookup(blinded, now)
		}
	}
	for key, p := range n.points {
		if now.After(p.expires.Add(n.cfg.run() * 3)) {
			delete(n.points, key)
		}
	}
}
