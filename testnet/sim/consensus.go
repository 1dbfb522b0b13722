package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Consensus is what the authorities agreed on at one moment. It does not
// change.
type Consensus struct {
	// ValidAfter, FreshUntil and ValidUntil are whole seconds.
	ValidAfter, FreshUntil, ValidUntil time.Time
	// SharedRandomCurrent and SharedRandomPrevious are nil when the
	// authorities could not agree on one.
	SharedRandomCurrent, SharedRandomPrevious *[32]byte
	// Relays are all relays, in order of their fingerprints.
	Relays []*Relay

	cfg     *Config
	byID    map[[20]byte]*Relay
	hsdirs  map[*Relay]bool
	rings   map[ringKey]*ring
	text    []byte
	microds []byte
}

// Period is the time period that the consensus falls into.
func (c *Consensus) Period() descriptor.Period {
	return descriptor.PeriodAt(c.ValidAfter, c.cfg.periodLength(), c.cfg.periodOffset())
}

// RunStart is when the shared-random run of the consensus began, at which
// SharedRandomCurrent appeared.
func (c *Consensus) RunStart() time.Time {
	run := int64(c.cfg.run() / time.Second)
	return time.Unix(c.ValidAfter.Unix()/run*run, 0).UTC()
}

// betweenPeriodAndRun says whether the period is newer than the shared random
// value: clients then look where services put their second descriptors.
func (c *Consensus) betweenPeriodAndRun() bool {
	start := c.RunStart()
	next := descriptor.PeriodAt(start, c.cfg.periodLength(), c.cfg.periodOffset()).End(c.cfg.periodOffset())
	return c.ValidAfter.Before(start) || !c.ValidAfter.Before(next)
}

// relay finds a relay by its fingerprint; nil if the consensus has none.
func (c *Consensus) relay(fingerprint [20]byte) *Relay { return c.byID[fingerprint] }

// usable is for how long after valid-until tor goes on with a consensus.
const usable = 24 * time.Hour

// live says whether tor would still work with c at now.
func (c *Consensus) live(now time.Time) bool {
	return c != nil && !now.After(c.ValidUntil.Add(usable)) && !now.Before(c.ValidAfter.Add(-usable))
}

// Text is the consensus as GETINFO dir/status-vote/current/consensus-microdesc
// gives it, in dir-spec's microdesc flavour. Its signature is made up.
func (c *Consensus) Text() []byte {
	if c.text != nil {
		return c.text
	}
	var b bytes.Buffer
	b.Grow(2000 + 400*len(c.Relays))
	b.WriteString("network-status-version 3 microdesc\nvote-status consensus\nconsensus-method 35\n")
	fmt.Fprintf(&b, "valid-after %s\nfresh-until %s\nvalid-until %s\n", c.ValidAfter.Format(time.DateTime),
		c.FreshUntil.Format(time.DateTime), c.ValidUntil.Format(time.DateTime))
	b.WriteString("voting-delay 300 300\nclient-versions 0.4.9.11\nserver-versions 0.4.9.11\n")
	b.WriteString("known-flags Authority BadExit Exit Fast Guard HSDir MiddleOnly NoEdConsensus Running Stable StaleDesc Sybil V2Dir Valid\n")
	b.WriteString("recommended-client-protocols Cons=2 Desc=2 FlowCtrl=1 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 Microdesc=2 Relay=2\n")
	b.WriteString("recommended-relay-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2\n")
	b.WriteString("required-client-protocols Cons=2 Desc=2 Link=4 Microdesc=2 Relay=2\n")
	b.WriteString("required-relay-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2\n")
	c.writeParams(&b)
	writeSharedRandom(&b, "previous", c.SharedRandomPrevious)
	writeSharedRandom(&b, "current", c.SharedRandomCurrent)
	authority := c.cfg.derive("authority")
	id := strings.ToUpper(hex.EncodeToString(authority[:20]))
	fmt.Fprintf(&b, "dir-source auth1 %s 198.18.255.254 198.18.255.254 9030 9001\ncontact nobody\nvote-digest %s\n", id, id)
	for _, r := range c.Relays {
		b.Write(r.lines(c.hsdirs[r]))
	}
	b.WriteString("directory-footer\nbandwidth-weights Wbd=0 Wbe=0 Wbg=4203 Wbm=10000 Wdb=10000 Web=10000 Wed=10000 Wee=10000 " +
		"Weg=10000 Wem=10000 Wgb=10000 Wgd=0 Wgg=5797 Wgm=5797 Wmb=10000 Wmd=0 Wme=0 Wmg=4203 Wmm=10000\n")
	digest := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "directory-signature sha256 %s %s\n-----BEGIN SIGNATURE-----\n%s\n-----END SIGNATURE-----\n",
		id, id, base64.StdEncoding.EncodeToString(digest[:]))
	c.text = b.Bytes()
	return c.text
}

func (c *Consensus) writeParams(b *bytes.Buffer) {
	if len(c.cfg.Params) == 0 {
		return
	}
	b.WriteString("params")
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Params)) {
		fmt.Fprintf(b, " %s=%d", name, c.cfg.Params[name])
	}
	b.WriteByte('\n')
}

func writeSharedRandom(b *bytes.Buffer, which string, value *[32]byte) {
	if value != nil {
		fmt.Fprintf(b, "shared-rand-%s-value 9 %s\n", which, base64.StdEncoding.EncodeToString(value[:]))
	}
}

// Microdescs is the relays' microdescriptors one after another, as GETINFO
// md/all gives them.
func (c *Consensus) Microdescs() []byte {
	if c.microds == nil {
		c.microds = make([]byte, 0, 400*len(c.Relays))
		for _, r := range c.Relays {
			c.microds = append(c.microds, r.microdesc...)
		}
	}
	return c.microds
}

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
		hsdirs:     make(map[*Relay]bool, len(n.relays)),
		rings:      make(map[ringKey]*ring),
	}
	for _, r := range c.Relays {
		c.byID[r.fingerprint] = r
		if r.hsdir {
			c.hsdirs[r] = true
		}
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
		if share <= 0 || n.cfg.Linger > 0 && !r.hsdir || n.churn.Float64() >= share {
			continue
		}
		left++
		if n.cfg.Linger == 0 {
			r.leave()
			continue
		}
		r.hsdir = false
		n.agenda.plan(time.Now().Add(n.cfg.Linger), func(time.Time) {
			r.leave()
			n.regroup(0)
		})
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

// view is the consensus that one tor has, which is older than the newest one
// most of the time. Network.mu protects it.
type view struct {
	net       *Network
	random    *rand.Rand
	delay     time.Duration // fixed; 0 is tor's random one
	arrived   func(now time.Time)
	consensus *Consensus
	stopped   bool // gets no new one
	round     int  // outdates what was planned before
}

// follow gives v the consensus that a tor which has run for long would have
// by now, and lets it fetch new ones.
func (v *view) follow(now time.Time) {
	v.round++
	votes := v.net.votes
	v.consensus = votes[len(votes)-1]
	if v.delay == 0 && len(votes) > 1 && v.random.IntN(2) == 0 {
		v.consensus = votes[len(votes)-2]
	}
	v.plan(now)
}

// reset takes the consensus away; fetch ends that.
func (v *view) reset() {
	v.round++
	v.consensus = nil
}

// plan schedules the next fetch: by the fixed delay after the next consensus
// is made, or when tor as a client would: some time in the seven eighths of
// what is left of the validity, three quarters of an interval after the
// consensus went stale.
func (v *view) plan(now time.Time) {
	interval := v.net.cfg.VotingInterval
	var at time.Time
	switch c := v.consensus; {
	case c == nil:
		at = now
	case v.delay > 0:
		at = c.FreshUntil.Add(v.delay)
	default:
		start := c.FreshUntil.Add(interval * 3 / 4)
		at = start.Add(between(v.random, 0, c.ValidUntil.Sub(start)*7/8))
	}
	if !at.After(now) {
		at = now.Add(retryDelay(interval, v))
	}
	round := v.round
	v.net.agenda.plan(at, func(now time.Time) {
		if round == v.round {
			v.fetch(now)
		}
	})
}

// retryDelay is the pause before the next attempt when no newer consensus was
// to be had.
func retryDelay(interval time.Duration, v *view) time.Duration {
	return between(v.random, interval/64, interval/16) + time.Second
}

// fetch takes the newest consensus that the caches have, if it is news.
func (v *view) fetch(now time.Time) {
	fresh := v.newest(now)
	if news := !v.stopped && fresh != nil && fresh != v.consensus; news {
		v.consensus = fresh
		v.plan(now)
		if v.arrived != nil {
			v.arrived(now)
		}
		return
	}
	v.plan(now)
}

// newest is the newest consensus that directory caches hand out: they have it
// two minutes after it is made, or sooner where intervals are short.
func (v *view) newest(now time.Time) *Consensus {
	spread := min(2*time.Minute, v.net.cfg.VotingInterval/16)
	if v.delay > 0 {
		spread = min(spread, v.delay)
	}
	for i := len(v.net.votes) - 1; i >= 0; i-- {
		if c := v.net.votes[i]; !c.ValidAfter.Add(spread).After(now) {
			return c
		}
	}
	return nil
}

// live is v's consensus if tor would still work with it, else nil.
func (v *view) live(now time.Time) *Consensus {
	if v.consensus.live(now) {
		return v.consensus
	}
	return nil
}
