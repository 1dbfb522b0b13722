package balance

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

// A hosted service is one of thousands that share instances. Each upload is a circuit, so
// these services renew their descriptors as late as HSDirs allow, and what happens to all of
// them at once (another consensus, shared random value or period, an introduction point of a
// shard that ends) each of them publishes at a moment of its own, by a hash. What visitors
// notice is not put off.

// An unchanged descriptor of a hosted service is renewed between these times. HSDirs keep it
// for three hours, and it may wait for others in the queue. One that was made for another
// reason stays as long as hostedLeast, or longer: what happened to thousands at once is
// spread by the next time.
const (
	hostedMin   = 130 * time.Minute
	hostedMax   = 150 * time.Minute
	hostedLeast = 60 * time.Minute
)

// hostedGather is for how long at most a change waits that leaves two thirds of the
// published points alive, and hostedSoon if all of these are one instance's.
const (
	hostedGather = 10 * time.Minute
	hostedSoon   = 2 * time.Minute
)

// hostedMove is the share of a period in which hosted services go over to the points that
// instances show from its beginning on. Those they show no more live as long as
// hiddenLife: tor keeps a point for 18 to 24 hours. They go over before more than a third of
// the points that are published are older than hiddenSure, as nobody sees these end.
const (
	hostedMove = 12
	hiddenLife = 20 * time.Hour
	hiddenSure = 18 * time.Hour
)

// moment returns a duration below limit that follows from a secret, what it is for and a
// number: the same for every manager, and for nobody else to foretell.
func moment(seed [32]byte, what string, number uint64, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte(what), seed[:]...), number))
	return time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(limit))
}

// refreshes returns how long an edition of t stays unless something changes.
func (t *Target) refreshes(revision uint64) time.Duration {
	shortest := hostedLeast
	switch {
	case !t.hosted:
		return refreshAfter(t.Credential.Seed, revision)
	case t.Reason == ReasonRefresh:
		shortest = hostedMin
	}
	return shortest + moment(t.Credential.Seed, "refresh", revision, hostedMax-shortest)
}

// start returns when the period began whose points instances show.
func (v View) start() time.Time { return v.Targets[v.Current].Keys.Period.Start(v.offset) }

// asked reports whether clients ask for a period's descriptor, those included whose
// consensus is old, and those to whom the next period comes soon.
func (v View) asked(p descriptor.Period) bool {
	start := p.Start(v.offset)
	return v.Now.After(start.Add(-p.Length/24)) && v.Now.Before(start.Add(p.Length+v.outdated+v.interval()))
}

// wantsAt returns when a hosted service makes the edition that t would be otherwise than
// last, which it is for moved HSDirs or a change of the points; the zero time for at once.
func (v View) wantsAt(t *Target, last *Edition, pool *pool) time.Time {
	within, sure := min(hostedGather, v.interval()), time.Time{}
	places := last.places()
	before := instances(places)
	switch {
	case v.unnoticed(t, last):
		return last.Refresh
	case t.change > changeRemoved, v.takenOut(places, pool):
		return time.Time{}
	case t.change == changeAdded && before == 1 && instances(t.places) > 1:
		within = min(hostedSoon, v.interval())
	case t.change == changeAdded && !t.newcomer(last) && instances(t.places) <= before:
		within, sure = t.Keys.Period.Length/hostedMove, sureUntil(last, pool)
	}
	since := last.wants
	if since.IsZero() || v.Now.Before(since) { // the clock was set back
		since = v.Now
	}
	at := since.Add(moment(t.Credential.Seed, "gather", last.Revision, within))
	if sure.IsZero() {
		return at
	}
	return times.Earlier(at, sure.Add(-moment(t.Credential.Seed, "sure", last.Revision, min(hostedGather, v.interval()))))
}

// sureUntil returns until when two thirds of the points live that clients get, as far as
// these are points that their instances show no more; the zero time if they live for long.
func sureUntil(last *Edition, pool *pool) (until time.Time) {
	seen := make(map[[32]byte]time.Time, len(pool.hidden))
	for _, c := range pool.hidden {
		seen[c.Point.AuthKey] = c.FirstSeen
	}
	var before *holding
	for n := range last.slots {
		at := &last.slots[n]
		if at.Reserve || at.holding == before {
			continue
		}
		before = at.holding
		var hidden []time.Time // when each was seen first
		for _, key := range at.holding.keys() {
			if first, is := seen[key]; is {
				hidden = append(hidden, first)
			}
		}
		slices.SortFunc(hidden, time.Time.Compare)
		if most := len(at.holding.IntroductionPoints) / 3; most < len(hidden) { // so many may end
			if end := hidden[most].Add(hiddenSure); until.IsZero() || end.Before(until) {
				until = end
			}
		}
	}
	return until
}

// unnoticed reports whether no client would notice that t is not as last was made.
func (v View) unnoticed(t *Target, last *Edition) bool {
	return !v.asked(t.Keys.Period) || t.change == changeNone && !t.newcomer(last)
}

// newcomer reports whether clients ask an HSDir that last did not go to.
func (t *Target) newcomer(last *Edition) bool {
	return t.moved && slices.ContainsFunc(t.places, func(p place) bool { return !p.Reserve && last.slot(p.HSDir) == nil })
}

// takenOut reports whether clients get points of an instance that the operator, its agent
// or checks took out: it gets new visitors until an edition without them is published.
func (v View) takenOut(places []place, pool *pool) bool {
	return slices.ContainsFunc(v.Config.Instances, func(i Instance) bool {
		return (pool.out[i.Name] != "" || pool.down[i.Name] != "") &&
			slices.ContainsFunc(places, func(p place) bool { return !p.Left && p.holding.owns(i.Address) })
	})
}

// first plans a hosted service's first edition of a period in this process.
func (p *Plan) first(t *Target, v View, s State, pool *pool) {
	at := v.Now
	switch b := s.Before[t.Keys.Period]; {
	case b.lives(v.Now):
		change := b.change(t, v, pool)
		if v.asked(t.Keys.Period) && v.takenOut(b.places, pool) {
			change = max(change, changeScarce)
		}
		switch change {
		case changeNone, changeRemoved:
			t.Reason, t.Urgency, t.stored = ReasonRefresh, hsdir.UrgencyRefresh, true
			if at = b.made.Refresh; b.made.Pending {
				at = v.Now
			} else if start := v.start(); b.made.Built.Before(start) {
				at = times.Earlier(at, start.Add(moment(t.Credential.Seed, "gather", b.made.Revision, t.Keys.Period.Length/hostedMove)))
			}
		case changeScarce:
			t.Urgency = hsdir.UrgencyPointsDead
		default:
			t.Urgency = hsdir.UrgencyNoLivePoint
		}
	case v.asked(t.Keys.Period):
		t.Urgency = hsdir.UrgencyNew
	default:
		at = v.rotation(t)
	}
	if v.Now.Before(at) {
		t.Held, t.Gathers = "it is due at "+clock(at), true
		p.sooner(at, v.Now)
	}
	if t.stored && t.Held == "" {
		p.holdStale(t, v, s.Before[t.Keys.Period].made.Built)
	}
}

// rotation returns when the descriptor of the next period is made: at a moment of the time
// between the shared random value that it goes by and the beginning of its period, the last
// sixth of which stays free, for what waits and for clients whose clocks are ahead.
func (v View) rotation(t *Target) time.Time {
	from, until := t.Ring.RunStart, t.Keys.Period.Start(v.offset)
	return from.Add(moment(t.Credential.Seed, "rotation", t.Keys.Period.Number, until.Sub(from)*5/6))
}

// change compares what HSDirs have of an earlier process with the points that clients may
// use now.
func (b *past) change(t *Target, v View, pool *pool) change {
	if !v.asked(t.Keys.Period) || b.made.Built.Before(v.start()) { // then instances show other points
		return changeNone
	}
	return b.loss(t, pool)
}

// loss says how much of b is dead.
func (b *past) loss(t *Target, pool *pool) (most change) {
	alive := t.alive(pool)
	for _, at := range b.places {
		if at.Left || at.holding.empty() {
			continue
		}
		living := 0
		for _, key := range at.holding.keys() {
			if len(alive[key]) > 0 {
				living++
			}
		}
		most = max(most, lossOf(living, len(at.holding.IntroductionPoints), at.Reserve))
	}
	return most
}

// stillHidden lists those of the points that editions have, and that their instances do not
// show any more but have still.
func (v View) stillHidden(candidates []selection.Candidate, s State) []selection.Candidate {
	var known []selection.Candidate
	for _, c := range slices.Concat(s.Published, s.hidden) {
		if v.Now.Sub(c.FirstSeen) < hiddenLife {
			known = append(known, c)
		}
	}
	return v.hidden(candidates, known)
}
